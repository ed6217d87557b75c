/**
 * A Redis Cluster: one connection to each master, and this process's view of which master serves
 * which slot. A wrong view costs a MOVED reply and nothing else: every Redis key names the
 * incarnation of the node that it is sent to. So a key that moved along with its slot has a name
 * that nobody asks for any more (docs/adr/0004-redis-topologies.md).
 */
import { hash } from 'node:crypto';
import { PollingLoop } from '../../../timing/polling-loop.js';
import {
  type RedisConnection,
  type RedisConnectionOptions,
  replyWithin,
} from './redis-connection.js';
import { RedisNode } from './redis-node.js';
import type { RedisTopology } from './redis-topology.js';
import type { RedisAddress, RedisTarget } from './redis-url.js';

const REFRESH_INTERVAL_MS = 1_000;
const REFRESH_TIMEOUT_MS = 500;

type SlotRanges = Awaited<ReturnType<RedisConnection['clusterSlots']>>;

/**
 * The slot of a key must not depend on its incarnation, so the key is in braces:
 * `hf:<incarnation>:{<key>}`.
 *
 * ASK replies are not followed: while a slot migrates, its absent keys are unavailable.
 *
 * A master that is cut off from the others answers until `cluster-node-timeout` has passed. A
 * process that still uses it has another {@link identity} than those that have heard of its
 * successor, so they do not answer from the cache at the same time.
 */
export class RedisCluster implements RedisTopology {
  readonly isSharded = true;
  /** Every node that is connected, by address. */
  private readonly knownNodes = new Map<string, RedisNode>();
  /** The nodes of the URL. Never closed: when all other addresses have changed, they lead back. */
  private readonly seeds: ReadonlySet<RedisNode>;
  private readonly loop: PollingLoop;
  /** By slot. */
  private slots: (RedisNode | undefined)[] = [];
  /** The nodes that serve a slot. */
  private masters: ReadonlySet<RedisNode> = new Set();
  private knownIdentity: string | undefined;

  constructor(
    private readonly target: RedisTarget,
    private readonly options: RedisConnectionOptions,
    private readonly onChange: () => void,
  ) {
    this.loop = new PollingLoop({
      step: () => this.refresh(),
      onError: (error) => options.onError?.(error as Error),
      retry: { minMs: REFRESH_INTERVAL_MS, maxMs: REFRESH_INTERVAL_MS },
    });
    this.seeds = new Set(target.addresses.map((address) => this.nodeAt(address)));
    this.loop.start();
  }

  get nodes(): RedisNode[] {
    return [...this.masters].filter((node) => node.prefix !== undefined);
  }

  /** Undefined from the first sign that the masters have changed until they are known again. */
  get identity(): string | undefined {
    return this.nodes.length > 0 ? this.knownIdentity : undefined;
  }

  /** A cache key never begins with a closing brace: the tag would be empty. */
  localKeyOf(key: string): string {
    return `{${key}}`;
  }

  nodeOf(name: string): RedisNode | undefined {
    return this.slots[slotOf(name)];
  }

  followRedirect(name: string, error: unknown): boolean {
    const slot = slotOf(name);
    const oldNode = this.slots[slot];
    const address = movedTo(error, oldNode);
    if (!address) return false;
    const newNode = this.nodeAt(address);
    this.slots[slot] = newNode;
    this.knownIdentity = undefined;
    this.loop.wake();
    return newNode !== oldNode;
  }

  close(): void {
    // Not awaited: a refresh under way may take REFRESH_TIMEOUT_MS, and it changes nothing any
    // more.
    void this.loop.stop();
    for (const node of this.knownNodes.values()) node.close();
  }

  private nodeAt(address: RedisAddress): RedisNode {
    const name = `${address.host} ${address.port}`;
    const knownNode = this.knownNodes.get(name);
    if (knownNode) return knownNode;
    const node = new RedisNode(this.target, address, this.options, () => {
      // Whatever happened to this node may have moved slots.
      this.loop.wake();
      this.onChange();
    });
    this.knownNodes.set(name, node);
    return node;
  }

  private async refresh(): Promise<number> {
    const source = this.pickSource();
    if (!source) return REFRESH_INTERVAL_MS;
    const { connection } = source;
    try {
      const [nodesBefore, ranges, nodesAfter] = await replyWithin(
        REFRESH_TIMEOUT_MS,
        Promise.all([
          connection.clusterNodes(),
          connection.clusterSlots(),
          connection.clusterNodes(),
        ]),
      );
      const identity = identityOfMasters(nodesAfter);
      // The slots must be those of the identity.
      if (identityOfMasters(nodesBefore) !== identity) return 0;
      this.adoptSlots(source, ranges);
      this.knownIdentity = identity;
    } catch (error) {
      this.options.onError?.(error as Error);
    }
    if (!this.loop.stopping) this.onChange();
    return REFRESH_INTERVAL_MS;
  }

  /**
   * One of the nodes that have heard of the latest config epoch. The view of a node that is cut off
   * from the others would be out of date.
   */
  private pickSource(): RedisNode | undefined {
    const ready = [...this.knownNodes.values()].filter((node) => node.prefix !== undefined);
    const latest = Math.max(...ready.map((node) => node.latestConfigEpoch));
    const upToDate = ready.filter((node) => node.latestConfigEpoch === latest);
    return upToDate[Math.floor(Math.random() * upToDate.length)];
  }

  private adoptSlots(source: RedisNode, ranges: SlotRanges): void {
    if (this.loop.stopping) return;
    const slots: (RedisNode | undefined)[] = new Array<undefined>(SLOT_COUNT).fill(undefined);
    for (const { from, to, master } of ranges) {
      // An empty host is the answering node's own; '?' is a host that it does not know.
      const host = master.host || source.address.host;
      if (host !== '?') slots.fill(this.nodeAt({ host, port: master.port }), from, to + 1);
    }
    this.slots = slots;
    this.masters = new Set(slots.filter((node) => node !== undefined));
    this.closeUnusedNodes();
  }

  private closeUnusedNodes(): void {
    for (const [name, node] of this.knownNodes) {
      const isInUse = this.masters.has(node) || this.seeds.has(node);
      if (isInUse) continue;
      this.knownNodes.delete(name);
      node.close();
    }
  }
}

/**
 * The masters, their slots and their config epochs. A failover or a slot that moves raises an epoch
 * that no node had before. The address tells a node from a copy of it that was started elsewhere.
 * @param nodes the reply to CLUSTER NODES: id, address, flags, master, ping, pong, config epoch,
 *   link, and the slots of a master, among them `[…]` for a slot under way
 */
function identityOfMasters(nodes: string): string {
  const masters = nodes.split('\n').flatMap((line) => {
    const [id, address, flags = '', , , , configEpoch, , ...slots] = line.trim().split(' ');
    const ownSlots = slots.filter((slot) => !slot.startsWith('['));
    const servesSlots = flags.split(',').includes('master') && ownSlots.length > 0;
    return servesSlots ? [`${id} ${address} ${configEpoch} ${ownSlots.join(' ')}`] : [];
  });
  return `cluster:${hash('sha256', masters.sort().join('\n')).slice(0, 16)}`;
}

const MOVED = /^MOVED \d+ (?<host>.*):(?<port>\d+)$/;

/**
 * @param answeringNode the node that sent the error
 * @returns the address in a MOVED reply; undefined for any other error
 */
function movedTo(error: unknown, answeringNode: RedisNode | undefined): RedisAddress | undefined {
  if (!(error instanceof Error)) return undefined;
  const reply = MOVED.exec(error.message)?.groups;
  if (!reply) return undefined;
  // An empty host is the answering node's own.
  return { host: reply.host || answeringNode!.address.host, port: Number(reply.port) };
}

const SLOT_COUNT = 16_384;

/** CRC-16/XMODEM, as the Redis Cluster specification defines it. */
const CRC16_TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc;
});

/**
 * The slot of a Redis key: of its hash tag (the text in its first braces), else of the whole key.
 */
export function slotOf(name: string): number {
  const tagStart = name.indexOf('{') + 1;
  const tagEnd = tagStart === 0 ? -1 : name.indexOf('}', tagStart);
  const hashedText = tagEnd > tagStart ? name.slice(tagStart, tagEnd) : name;
  let crc = 0;
  for (const byte of Buffer.from(hashedText)) {
    crc = ((crc << 8) & 0xffff) ^ CRC16_TABLE[(crc >> 8) ^ byte]!;
  }
  return crc % SLOT_COUNT;
}
