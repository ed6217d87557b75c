/**
 * Which server is asked about which key. The store (redis.store.ts) knows the protocol, a node (redis.node.ts) one
 * connection and its incarnation; a topology only chooses the node, and may be wrong about it without harm: a command
 * names the incarnation of the very connection that it is sent on, so it can reach nothing that another server wrote.
 */
import { type NodeOptions, RedisNode } from './redis.node.js';
import type { RedisTarget } from './redis.url.js';

export interface RedisTopology {
  /** Whether keys live on several servers, of which some may be gone while others answer. */
  readonly sharded: boolean;
  /** All that are known, connected and may be used now. */
  readonly nodes: readonly RedisNode[];
  /** What stands after the incarnation in the name of `key`: the key itself, unless sharded. */
  local(key: string): string;
  /** The server of a name (with or without its incarnation), undefined while it is unknown. */
  nodeOf(name: string): RedisNode | undefined;
  /** Whether `error` says that `name` is served elsewhere, so that nodeOf() now gives another node and nothing was done. */
  redirected(name: string, error: unknown): boolean;
  close(): void;
}

/** One server, whatever its address leads to. */
export class RedisStandalone implements RedisTopology {
  readonly sharded = false;
  private readonly node: RedisNode;

  constructor(target: RedisTarget, options: NodeOptions, onChange: () => void) {
    this.node = new RedisNode(target, target.addresses[0]!, options, onChange);
  }

  get nodes(): RedisNode[] {
    return this.node.prefix === undefined ? [] : [this.node];
  }

  local(key: string): string {
    return key;
  }

  nodeOf(): RedisNode {
    return this.node;
  }

  redirected(): boolean {
    return false;
  }

  close(): void {
    this.node.close();
  }
}
