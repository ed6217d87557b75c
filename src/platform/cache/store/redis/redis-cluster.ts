/**
 * A Redis Cluster: one connection for each master, and this process's idea of which of them serves which slot. The
 * invariant is the nodes' own: a name carries the incarnation of the node that it is sent to, so a wrong idea costs a MOVED
 * and nothing else, and a key that came along with its slot (or back with it) bears a name that nobody asks for any more.
 *
 * The slot of a name must not depend on the incarnation in it, so a key stands in braces: `hf:<incarnation>:{<key>}`.
 * A slot's migration is not followed (ASK): meanwhile its absent keys are unreachable. What is left to G2: a master that is
 * cut off from the others answers until cluster-node-timeout has passed, when Redis itself stops it.
 */
import { type NodeOptions, RedisNode, within } from './redis.node.js';
import type { RedisTopology } from './redis.topology.js';
import type { RedisAddress, RedisTarget } from './redis.url.js';

const REFRESH_MS = 1_000;
const REFRESH_TIMEOUT_MS = 500;

export class RedisCluster implements RedisTopology {
  readonly sharded = true;
  private readonly known = new Map<string, RedisNode>();
  private readonly seeds: ReadonlySet<RedisNode>;
  /** By slot; each of {@link masters} serves some. */
  private slots: (RedisNode | undefined)[] = [];
  private masters: ReadonlySet<RedisNode> = new Set();
  private refreshing = false;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(
    private readonly target: RedisTarget,
    private readonly options: NodeOptions,
    private readonly onChange: () => void,
  ) {
    // Never given up: where every other address has changed, they are the way back.
    this.seeds = new Set(target.addresses.map((address) => this.nodeAt(address)));
  }

  get nodes(): RedisNode[] {
    return [...this.masters].filter((node) => node.prefix !== undefined);
  }

  /** A key never begins with a closing brace: it would empty the tag. */
  local(key: string): string {
    return `{${key}}`;
  }

  nodeOf(name: string): RedisNode | undefined {
    return this.slots[slotOf(name)];
  }

  redirected(name: string, error: unknown): boolean {
    const [, host, port] =
      (error instanceof Error && /^MOVED \d+ (.*):(\d+)$/.exec(error.message)) || [];
    if (port === undefined) return false;
    const slot = slotOf(name);
    const before = this.slots[slot];
    // An empty host is the answering node's own.
    this.slots[slot] = this.nodeAt({ host: host || before!.address.host, port: Number(port) });
    void this.refresh();
    return this.slots[slot] !== before;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    for (const node of this.known.values()) node.close();
  }

  private nodeAt(address: RedisAddress): RedisNode {
    const name = `${address.host} ${address.port}`;
    let node = this.known.get(name);
    if (!node) {
      node = new RedisNode(this.target, address, this.options, () => {
        // Whatever happened to one may have moved slots.
        void this.refresh();
        this.onChange();
      });
      this.known.set(name, node);
    }
    return node;
  }

  /** Takes over the view of whoever has heard of the latest config epoch: one that is cut off would be out of date. */
  private async refresh(): Promise<void> {
    if (this.refreshing || this.closed) return;
    this.refreshing = true;
    clearTimeout(this.timer);
    const ready = [...this.known.values()].filter((node) => node.prefix !== undefined);
    const latest = Math.max(...ready.map((node) => node.worldEpoch));
    const knowing = ready.filter((node) => node.worldEpoch === latest);
    const asked = knowing[Math.floor(Math.random() * knowing.length)];
    try {
      if (asked) this.apply(asked, await within(asked.client.clusterSlots(), REFRESH_TIMEOUT_MS));
    } catch (error) {
      this.options.onError?.(error as Error);
    }
    this.refreshing = false;
    if (this.closed) return;
    this.timer = setTimeout(() => void this.refresh(), REFRESH_MS);
    this.timer.unref();
    this.onChange();
  }

  private apply(
    asked: RedisNode,
    ranges: Awaited<ReturnType<RedisNode['client']['clusterSlots']>>,
  ): void {
    if (this.closed) return;
    const slots: typeof this.slots = new Array<undefined>(SLOTS).fill(undefined);
    for (const { from, to, master } of ranges) {
      // As in MOVED; '?' is a name that the node does not know itself.
      const host = master.host || asked.address.host;
      if (host !== '?') slots.fill(this.nodeAt({ host, port: master.port }), from, to + 1);
    }
    this.slots = slots;
    this.masters = new Set(slots.filter((node) => node !== undefined));
    for (const [name, node] of this.known) {
      if (this.masters.has(node) || this.seeds.has(node)) continue;
      this.known.delete(name);
      node.close();
    }
  }
}

const SLOTS = 16_384;

/** CRC-16/XMODEM, as the Redis Cluster specification has it. */
const CRC16 = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc;
});

/** The slot of a whole name, or of what stands between its first braces. */
export function slotOf(name: string): number {
  const open = name.indexOf('{');
  const close = open < 0 ? -1 : name.indexOf('}', open);
  const tag = close > open + 1 ? name.slice(open + 1, close) : name;
  let crc = 0;
  for (const byte of Buffer.from(tag)) crc = ((crc << 8) & 0xffff) ^ CRC16[(crc >> 8) ^ byte]!;
  return crc % SLOTS;
}
