/**
 * The master that Redis Sentinels name, and one connection to it. A demoted master may still
 * answer: after a failover by hand for up to 8 s, behind a partition longer. Processes that use
 * different masters have different identities, so only those of one answer from the cache
 * (docs/adr/0019-redis-edges.md).
 */
import { PollingLoop } from '../../../timing/polling-loop.js';
import { CacheUnavailableError } from '../cache-store.js';
import {
  createConnection,
  type RedisConnection,
  type RedisConnectionOptions,
  replyWithin,
} from './redis-connection.js';
import { RedisNode } from './redis-node.js';
import { identityOf, type RedisTopology } from './redis-topology.js';
import type { RedisAddress, RedisTarget } from './redis-url.js';

const POLL_INTERVAL_MS = 1_000;
/** While no master may be used. */
const URGENT_POLL_INTERVAL_MS = 250;
const POLL_TIMEOUT_MS = 500;
/** Longer than a poll's interval and timeout together. */
const MASTER_LEASE_MS = 2_000;

/** What one Sentinel says about the master. */
interface SentinelReport {
  /** Address and config epoch. Two Sentinels agree if their identities are equal. */
  readonly identity: string;
  readonly address: RedisAddress;
}

interface Master {
  readonly identity: string;
  readonly node: RedisNode;
  /** By performance.now(). */
  usableUntil: number;
}

/**
 * A master counts as named when more than half of the Sentinels in the URL name it. It is used for
 * MASTER_LEASE_MS after the start of the last poll that named it: without a majority in reach the
 * cache is unavailable. This keeps all nodes on the majority's master, for speed. No promise needs
 * it: a node on another master has another identity, and cannot open its gate.
 */
export class RedisSentinels implements RedisTopology {
  readonly isSharded = false;
  private readonly sentinels: readonly RedisConnection[];
  private readonly loop: PollingLoop;
  private master: Master | undefined;

  constructor(
    private readonly target: RedisTarget,
    private readonly options: RedisConnectionOptions,
    private readonly onChange: () => void,
  ) {
    this.loop = new PollingLoop({
      step: () => this.poll(),
      onError: (error) => options.onError?.(error as Error),
      retry: { minMs: URGENT_POLL_INTERVAL_MS, maxMs: POLL_INTERVAL_MS },
    });
    this.sentinels = target.addresses.map((address) => this.connectSentinel(address));
    this.loop.start();
  }

  get nodes(): RedisNode[] {
    const node = this.nodeOf();
    return node?.prefix === undefined ? [] : [node];
  }

  get identity(): string | undefined {
    return identityOf(this.target, this.nodeOf());
  }

  localKeyOf(key: string): string {
    return key;
  }

  nodeOf(): RedisNode | undefined {
    const { master } = this;
    const isUsable = master !== undefined && performance.now() < master.usableUntil;
    return isUsable ? master.node : undefined;
  }

  followRedirect(): boolean {
    return false;
  }

  close(): void {
    // Not awaited: a poll under way may take POLL_TIMEOUT_MS, and it changes nothing any more.
    void this.loop.stop();
    this.master?.node.close();
    for (const sentinel of this.sentinels) sentinel.destroy();
  }

  private connectSentinel(address: RedisAddress): RedisConnection {
    // The URL's user and password are those of the servers; see authenticate().
    const target = { ...this.target, username: undefined, password: undefined, database: 0 };
    const sentinel = createConnection(target, address, this.options, 2);
    sentinel.on('error', (error: Error) => this.options.onError?.(error));
    sentinel.on('connect', () => {
      // destroy() does not stop a connection attempt that is under way.
      if (this.loop.stopping) sentinel.destroy();
    });
    sentinel.once('ready', () => this.loop.wake());
    // node-redis retries for ever. It has reported each failure as an 'error' event.
    sentinel.connect().catch(() => undefined);
    return sentinel;
  }

  private async poll(): Promise<number> {
    const beganAt = performance.now();
    const reports = await Promise.all(
      this.sentinels.map((sentinel) =>
        replyWithin(POLL_TIMEOUT_MS, this.askForMaster(sentinel)).catch(() => undefined),
      ),
    );
    if (this.loop.stopping) return 0;
    // A lease that has expired since the last poll is reported before it is renewed.
    this.onChange();
    const report = findMajority(reports);
    if (report) {
      const usableUntil = beganAt + MASTER_LEASE_MS;
      this.master = { ...this.masterOf(report), usableUntil };
    }
    this.onChange();
    return this.nodes.length > 0 ? POLL_INTERVAL_MS : URGENT_POLL_INTERVAL_MS;
  }

  /** The master that the Sentinels name. Ends the connection to another one. */
  private masterOf({ identity, address }: SentinelReport): Omit<Master, 'usableUntil'> {
    const { master } = this;
    if (master?.identity === identity) return master;
    const { host, port } = master?.node.address ?? {};
    // After a failover and back, the address is the same, and the node notices what has changed.
    if (master && host === address.host && port === address.port) return { ...master, identity };
    master?.node.close();
    return { identity, node: new RedisNode(this.target, address, this.options, this.onChange) };
  }

  private async askForMaster(sentinel: RedisConnection): Promise<SentinelReport> {
    const question = ['SENTINEL', 'MASTER', this.target.masterName];
    let reply: string[];
    try {
      reply = await sentinel.sendCommand<string[]>(question);
    } catch (error) {
      await this.authenticate(sentinel, error);
      reply = await sentinel.sendCommand<string[]>(question);
    }
    return parseReport(reply);
  }

  /**
   * Sends the servers' credentials only to a Sentinel that asks for some: one without
   * authentication would reject them.
   * @throws `error` when it is not the question for credentials, or the URL has none
   */
  private async authenticate(sentinel: RedisConnection, error: unknown): Promise<void> {
    const { username, password } = this.target;
    const isAuthRequired = error instanceof Error && error.message.startsWith('NOAUTH');
    if (!isAuthRequired || !password) throw error;
    await sentinel.sendCommand(['AUTH', ...(username ? [username] : []), password]);
  }
}

/** @param reply field names and values in turn */
function parseReport(reply: readonly string[]): SentinelReport {
  const fields: Partial<Record<string, string>> = {};
  for (let index = 0; index + 1 < reply.length; index += 2) {
    fields[reply[index]!] = reply[index + 1]!;
  }
  const { ip, port, 'config-epoch': epoch } = fields;
  if (!ip || !port || !epoch) {
    throw new CacheUnavailableError('The Sentinel does not name the master');
  }
  return {
    identity: `${ip} ${port} ${epoch}`,
    address: { host: ip, port: Number(port) },
  };
}

/** @returns what more than half of the Sentinels say; those that did not answer count, too */
function findMajority(
  reports: readonly (SentinelReport | undefined)[],
): SentinelReport | undefined {
  return reports.find((candidate) => {
    const agreeing = reports.filter((report) => report?.identity === candidate?.identity);
    return candidate && agreeing.length > reports.length / 2;
  });
}
