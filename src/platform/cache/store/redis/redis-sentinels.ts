/**
 * The master that Sentinels name, and one connection to it. The invariant: at no moment do two processes use different
 * masters, not even while a demoted one still answers (a failover by hand leaves it a master for up to 8 s, a partition
 * for longer). A master counts as named when more than half of the Sentinels in the URL say so; one is used for LEASE_MS
 * after the start of the last poll that named it, and a new one not until LEASE_MS after it was first named. Two majorities
 * share a Sentinel, which named the old master before the new one, so nobody's use of the old one reaches into that of the
 * new. It takes no clock but each process's own stopwatch.
 *
 * What is left to G2 (docs/cache-protocol.md): a Sentinel named in the URL that forgets its config epoch, or stopwatches that
 * disagree by more than the waits. Fewer than a majority of the Sentinels in reach, and the cache is unavailable instead.
 */
import { CacheUnavailableError } from './cache.store.js';
import { type NodeOptions, openClient, RedisNode, within } from './redis.node.js';
import type { RedisTopology } from './redis.topology.js';
import type { RedisAddress, RedisTarget } from './redis.url.js';

const POLL_MS = 1_000;
/** While no master may be used. */
const URGENT_POLL_MS = 250;
const POLL_TIMEOUT_MS = 500;
/** More than a poll's distance and its timeout together. */
const LEASE_MS = 2_000;

/** What one Sentinel says; two say the same if `name` is the same. */
interface Testimony {
  readonly name: string;
  readonly address: RedisAddress;
  /** For how long at least it has been saying so. */
  readonly ageMs: number;
}

interface Master {
  readonly name: string;
  readonly node: RedisNode;
  /** By performance.now(). */
  readonly usableFrom: number;
  usableUntil: number;
}

export class RedisSentinels implements RedisTopology {
  readonly sharded = false;
  private readonly sentinels: readonly ReturnType<typeof openClient>[];
  private master: Master | undefined;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(
    private readonly target: RedisTarget,
    private readonly options: NodeOptions,
    private readonly onChange: () => void,
  ) {
    // Credentials are the servers' own; see ask().
    const open = { ...target, username: undefined, password: undefined, database: 0 };
    this.sentinels = target.addresses.map((address) => {
      const client = openClient(open, address, options, 2);
      client.on('error', (error: Error) => options.onError?.(error));
      client.on('connect', () => {
        if (this.closed) client.destroy();
      });
      client.once('ready', () => void this.poll());
      client.connect().catch(() => undefined);
      return client;
    });
    this.schedule();
  }

  get nodes(): RedisNode[] {
    const node = this.nodeOf();
    return node?.prefix === undefined ? [] : [node];
  }

  local(key: string): string {
    return key;
  }

  nodeOf(): RedisNode | undefined {
    const now = performance.now();
    const { master } = this;
    return master && now >= master.usableFrom && now < master.usableUntil ? master.node : undefined;
  }

  redirected(): boolean {
    return false;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    this.master?.node.close();
    for (const sentinel of this.sentinels) sentinel.destroy();
  }

  private schedule(): void {
    clearTimeout(this.timer);
    if (this.closed) return;
    this.timer = setTimeout(
      () => void this.poll(),
      this.nodes.length > 0 ? POLL_MS : URGENT_POLL_MS,
    );
    this.timer.unref();
  }

  private async poll(): Promise<void> {
    clearTimeout(this.timer);
    const began = performance.now();
    const asked = this.sentinels.map((sentinel) =>
      within(this.ask(sentinel), POLL_TIMEOUT_MS).catch(() => undefined),
    );
    const named = majority(await Promise.all(asked));
    if (this.closed) return;
    // A lease that has run out is told of, before it is renewed.
    this.onChange();
    if (named) {
      if (named.name !== this.master?.name) this.follow(named);
      if (this.master) this.master.usableUntil = began + LEASE_MS;
    }
    this.onChange();
    this.schedule();
  }

  private follow({ name, address, ageMs }: Testimony): void {
    const now = performance.now();
    const wait = ageMs >= LEASE_MS ? 0 : LEASE_MS;
    const old = this.master?.node;
    const same = old?.address.host === address.host && old.address.port === address.port;
    const node = same ? old : new RedisNode(this.target, address, this.options, this.onChange);
    this.master = { name, node, usableFrom: now + wait, usableUntil: now };
    if (old !== node) old?.close();
  }

  private async ask(sentinel: ReturnType<typeof openClient>): Promise<Testimony> {
    const question = ['SENTINEL', 'MASTER', this.target.masterName];
    const reply = await sentinel.sendCommand<string[]>(question).catch(async (error: unknown) => {
      const { username, password } = this.target;
      if (!password || !(error instanceof Error && error.message.startsWith('NOAUTH'))) throw error;
      await sentinel.sendCommand(['AUTH', ...(username ? [username] : []), password]);
      return sentinel.sendCommand<string[]>(question);
    });
    const fields: Partial<Record<string, string>> = {};
    for (let at = 0; at + 1 < reply.length; at += 2) fields[reply[at]!] = reply[at + 1]!;
    const { ip, port, 'config-epoch': epoch, 'role-reported-time': age } = fields;
    if (!ip || !port || !epoch)
      throw new CacheUnavailableError('A Sentinel does not tell its master');
    return {
      name: `${ip} ${port} ${epoch}`,
      address: { host: ip, port: Number(port) },
      ageMs: Number(age ?? 0),
    };
  }
}

/** What more than half of them say, with the least of their ages. */
function majority(said: readonly (Testimony | undefined)[]): Testimony | undefined {
  for (const one of said) {
    const same = said.filter((other) => other && other.name === one?.name);
    if (one && same.length > said.length / 2) {
      return { ...one, ageMs: Math.min(...same.map((other) => other!.ageMs)) };
    }
  }
  return undefined;
}
