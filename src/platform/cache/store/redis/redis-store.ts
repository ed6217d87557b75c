/**
 * The fenced cache in Redis: the protocol's steps (redis.scripts.ts), each sent to the node that serves its key. The
 * invariant: an answer counts only if it came within the command timeout from a node that still serves the key, in the
 * incarnation that the key's name carries (redis.node.ts); whatever else happens is "unavailable".
 */
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  PartlyUnavailableError,
} from './cache.store.js';
import { RedisCluster } from './redis.cluster.js';
import { AnotherLifeError, type NodeOptions, type RedisNode, within } from './redis.node.js';
import { checked, decode, encode } from './redis.scripts.js';
import { RedisSentinels } from './redis.sentinels.js';
import { RedisStandalone, type RedisTopology } from './redis.topology.js';
import { parseRedisUrl, type RedisTarget } from './redis.url.js';

/** How to reach Redis and whom to tell about it. Times are milliseconds. */
export interface RedisStoreOptions {
  /** One of the forms of {@link parseRedisUrl}. */
  readonly url: string;
  /** No call waits longer than this for its answer (a read across a change of life: twice); default 200. */
  readonly commandTimeoutMs?: number;
  /** How long one TCP (and TLS) connection attempt may take; default 2000. */
  readonly connectTimeoutMs?: number;
  /** How many commands may wait for one server before further ones are refused at once; default 10 000. */
  readonly maxQueuedCommands?: number;
  /**
   * Called with each change of {@link RedisStore.available}; with true also whenever one more part of a cluster has come or
   * come back, since what it holds may have missed an invalidation meanwhile.
   */
  readonly onStateChange?: (available: boolean) => void;
  /** Called with every connection error. The store has no other voice: it never logs. */
  readonly onError?: (error: Error) => void;
}

/**
 * The few plain commands of one key for whoever shares the connections, in node-redis's own forms. They carry no
 * incarnation: what they read may be old. They fail with a {@link CacheUnavailableError} within the command timeout.
 */
export interface RedisCommands {
  get(key: string): Promise<string | null>;
  set(key: string, value: string, options?: { readonly PX?: number }): Promise<unknown>;
  del(key: string): Promise<number>;
  /** A Lua script over exactly one key. */
  eval(
    script: string,
    options: { readonly keys: [string]; readonly arguments: readonly string[] },
  ): Promise<unknown>;
}

/** What an unreachable part of a cluster looks like to a reader: read PostgreSQL, fill nothing. */
const UNREACHABLE: CacheEntry = { state: 'fence' };

function topologyOf(
  target: RedisTarget,
  options: NodeOptions,
  onChange: () => void,
): RedisTopology {
  if (target.topology === 'standalone') return new RedisStandalone(target, options, onChange);
  const Topology = target.topology === 'sentinel' ? RedisSentinels : RedisCluster;
  return new Topology(target, options, onChange);
}

/** A {@link CacheStore} in Redis (6 or later, any eviction policy but `noeviction`): one server, Sentinels or a Cluster. */
export class RedisStore implements CacheStore {
  /** For whoever shares the connections. */
  readonly client: RedisCommands;
  private readonly topology: RedisTopology;
  private readonly commandTimeoutMs: number;
  private closed = false;
  /** The nodes that were available when that was last reported. */
  private reported: ReadonlySet<RedisNode> = new Set();

  private constructor(
    target: RedisTarget,
    private readonly options: RedisStoreOptions,
  ) {
    this.commandTimeoutMs = options.commandTimeoutMs ?? 200;
    this.topology = topologyOf(
      target,
      { ...options, commandTimeoutMs: this.commandTimeoutMs },
      () => this.reportState(),
    );
    const plain = (key: string, ...command: string[]) =>
      within(
        this.at(key, (node) => node.client.sendCommand<unknown>(command)),
        this.commandTimeoutMs,
      );
    this.client = {
      get: (key) => plain(key, 'GET', key) as Promise<string | null>,
      set: (key, value, { PX } = {}) =>
        plain(key, 'SET', key, value, ...(PX ? ['PX', milliseconds(PX)] : [])),
      del: (key) => plain(key, 'DEL', key) as Promise<number>,
      eval: (script, { keys, arguments: args }) =>
        plain(keys[0], 'EVAL', script, '1', keys[0], ...args),
    };
  }

  /**
   * Returns at once and connects in the background, for ever: `available` is false until a server is known.
   * @throws TypeError for a URL that is none
   */
  static connect(options: RedisStoreOptions): RedisStore {
    const target = parseRedisUrl(options.url);
    if (!target) throw new TypeError('Not a Redis URL');
    return new RedisStore(target, options);
  }

  /** On a cluster: whether any part of it can be reached. The keys of the other parts read as fenced, and refuse writes. */
  get available(): boolean {
    return !this.closed && this.topology.nodes.length > 0;
  }

  get sharded(): boolean {
    return this.topology.sharded;
  }

  /** The name that `key` has in Redis now, `hf:<incarnation>:…`; undefined while its server is unknown. */
  nameOf(key: string): string | undefined {
    const local = this.topology.local(key);
    const prefix = this.topology.nodeOf(local)?.prefix;
    return prefix === undefined ? undefined : prefix + local;
  }

  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    if (keys.length === 0) return [];
    if (this.topology.sharded) return this.read(keys, (node, local) => node.readOne(local));
    return this.at(keys[0]!, (node) => node.read(keys));
  }

  async lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    const args = [checked(token), milliseconds(ms)];
    return this.read(keys, async (node, local) =>
      decode(await node.step<string | null>('hfLease', local, args)),
    );
  }

  async fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    checked(token);
    // Encoded before anything is sent: a refused value must not leave half of the others on their way.
    const steps = values.map((it) => ({
      key: it.key,
      args: [token, encode(it), milliseconds(it.ttlMs)],
    }));
    const replies = await this.each(steps, ({ key, args }) => this.step(key, 'hfFill', args));
    return replies.map((reply) => reply === 1);
  }

  async replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    const steps = replacements.map(({ key, seen, version, payload, ttlMs }) => ({
      key,
      args: [
        encode(seen),
        encode({ version, payload }),
        ttlMs === undefined ? '' : milliseconds(ttlMs),
      ],
    }));
    const replies = await this.each(steps, ({ key, args }) => this.step(key, 'hfReplace', args));
    return replies.map((reply) => reply === 1);
  }

  async fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    const args = [checked(token), milliseconds(ms)];
    await this.each(keys, (key) => this.step(key, 'hfFence', args));
  }

  async publish(token: string, publications: readonly CachePublication[]): Promise<void> {
    checked(token);
    const steps = publications.map((it) => ({
      key: it.key,
      args: 'absent' in it ? [token, '', ''] : [token, encode(it), milliseconds(it.ttlMs)],
    }));
    // Bounded one by one: a part of a cluster that is gone must not hide that the others have done it.
    const published = await Promise.allSettled(
      steps.map(({ key, args }) =>
        within(this.step(key, 'hfPublish', args), this.commandTimeoutMs),
      ),
    );
    const failed = published.flatMap((it, index) =>
      it.status === 'rejected' ? [{ index, cause: it.reason as Error }] : [],
    );
    const [first] = failed;
    if (!first) return;
    if (failed.length === steps.length) throw first.cause;
    const keys = failed.map(({ index }) => steps[index]!.key);
    throw new PartlyUnavailableError(
      `${keys.length} of ${steps.length} keys: ${first.cause.message}`,
      keys,
      first,
    );
  }

  async unfence(keys: readonly string[], token: string): Promise<void> {
    const args = [checked(token)];
    await this.each(keys, (key) => this.step(key, 'hfUnfence', args));
  }

  /** Of a cluster, every server that is not already known to be gone must answer. */
  async ping(): Promise<void> {
    if (!this.available) throw new CacheUnavailableError('Redis is not connected');
    await this.each([...this.topology.nodes], (node) => node.ping());
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.topology.close();
    this.reportState();
  }

  private read(
    keys: readonly string[],
    send: (node: RedisNode, local: string) => Promise<CacheEntry>,
  ): Promise<CacheEntry[]> {
    return this.each(keys, async (key) => {
      try {
        return await this.at(this.topology.local(key), send);
      } catch (error) {
        // A cluster that has lost a part still serves the others, also to a call that asks for keys of both.
        if (this.topology.sharded && this.available) return UNREACHABLE;
        throw error;
      }
    });
  }

  private step(
    key: string,
    script: Parameters<RedisNode['step']>[0],
    args: readonly string[],
  ): Promise<number> {
    return this.at(this.topology.local(key), (node, local) =>
      node.step<number>(script, local, args),
    );
  }

  /**
   * Sends to the node of `name`. Where the name has moved, or the node has begun another life, it was in vain, and is sent
   * again: to the node that has it now, under the incarnation in force there.
   */
  private async at<Reply>(
    name: string,
    send: (node: RedisNode, name: string) => Promise<Reply>,
    attempts = 3,
  ): Promise<Reply> {
    const node = this.closed ? undefined : this.topology.nodeOf(name);
    if (node?.prefix === undefined) throw new CacheUnavailableError('Redis is not connected');
    try {
      const reply = await send(node, name);
      if (this.topology.nodeOf(name) === node) return reply;
    } catch (error) {
      const inVain = this.topology.redirected(name, error) || error instanceof AnotherLifeError;
      if (inVain && attempts > 1) return this.at(name, send, attempts - 1);
      throw error;
    }
    throw new CacheUnavailableError('Another Redis has taken over');
  }

  /** All of them issued in this tick, which node-redis writes together. */
  private async each<Item, Reply>(
    items: readonly Item[],
    send: (item: Item) => Promise<Reply>,
  ): Promise<Reply[]> {
    if (items.length === 0) return [];
    return within(Promise.all(items.map(send)), this.commandTimeoutMs);
  }

  private reportState(): void {
    const before = this.reported;
    this.reported = new Set(this.closed ? [] : this.topology.nodes);
    const gone = before.size > 0 && this.reported.size === 0;
    const come = [...this.reported].some((node) => !before.has(node));
    if (gone || come) this.options.onStateChange?.(come);
  }
}

function milliseconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms)));
}
