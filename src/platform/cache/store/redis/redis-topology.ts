/**
 * Which server serves which key. A topology may choose the wrong server without harm: a command
 * names the incarnation of its server, so it never reaches what another server wrote.
 *
 * A key has three names: the cache key (`user:id:7`), the local key (in a cluster `{user:id:7}`)
 * and the Redis key (`hf:<incarnation>:{user:id:7}`).
 */
import type { RedisConnectionOptions } from './redis-connection.js';
import { RedisNode } from './redis-node.js';
import type { RedisTarget } from './redis-url.js';

export interface RedisTopology {
  /**
   * Whether keys are spread over several servers, of which some may be gone while others answer.
   */
  readonly isSharded: boolean;
  /** `identity` of the cache store (cache-store.ts). */
  readonly identity: string | undefined;
  /** The servers that are connected and may be used now. */
  readonly nodes: readonly RedisNode[];
  /** The part of a Redis key after the incarnation's prefix. */
  localKeyOf(key: string): string;
  /** The server of a local key or a Redis key; undefined while it is unknown. */
  nodeOf(name: string): RedisNode | undefined;
  /**
   * Learns from a command's error where `name` is served now.
   * @returns whether the command was not executed and {@link nodeOf} now gives another server
   */
  followRedirect(name: string, error: unknown): boolean;
  close(): void;
}

/** The identity of a cache that is one database of one server. */
export function identityOf(target: RedisTarget, node: RedisNode | undefined): string | undefined {
  return node?.prefix === undefined ? undefined : `${node.prefix}${target.database}`;
}

/** One server, wherever its address leads. */
export class RedisStandalone implements RedisTopology {
  readonly isSharded = false;
  private readonly node: RedisNode;

  constructor(
    private readonly target: RedisTarget,
    options: RedisConnectionOptions,
    onChange: () => void,
  ) {
    this.node = new RedisNode(target, target.addresses[0]!, options, onChange);
  }

  get identity(): string | undefined {
    return identityOf(this.target, this.node);
  }

  get nodes(): RedisNode[] {
    return this.node.prefix === undefined ? [] : [this.node];
  }

  localKeyOf(key: string): string {
    return key;
  }

  nodeOf(): RedisNode {
    return this.node;
  }

  followRedirect(): boolean {
    return false;
  }

  close(): void {
    this.node.close();
  }
}
