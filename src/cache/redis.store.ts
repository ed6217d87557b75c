/**
 * The fenced cache in Redis: the connection, and the protocol's steps (redis.scripts.ts) sent over it.
 * The invariant: a command reaches a server only under that server's own incarnation, so whatever a restarted or
 * failed-over server still holds from another life can never be read; and no caller waits longer than the command timeout.
 */
import { createClient } from 'redis';
import {
  type CacheEntry,
  type CachePublication,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
} from './cache.store.js';
import { checked, decode, encode, scripts } from './redis.scripts.js';

/** How to reach Redis and whom to tell about it. Times are milliseconds. */
export interface RedisStoreOptions {
  /** `redis[s]://[[user]:password@]host[:port][/db]` */
  readonly url: string;
  /** No call waits longer than this for its answer; default 200. */
  readonly commandTimeoutMs?: number;
  /** How long one TCP (and TLS) connection attempt may take; default 2000. */
  readonly connectTimeoutMs?: number;
  /** How many commands may wait for Redis before further ones are refused at once; default 10 000. */
  readonly maxQueuedCommands?: number;
  /** Called with each change of {@link RedisStore.available}. */
  readonly onStateChange?: (available: boolean) => void;
  /** Called with every connection error. The store has no other voice: it never logs. */
  readonly onError?: (error: Error) => void;
}

const HEARTBEAT_MS = 1_000;
const IDENTIFY_TIMEOUT_MS = 1_000;
const IDENTIFY_RETRY_MS = 250;
const MAX_BATCHED_KEYS = 500;

/** The node-redis client of one standalone server, with the protocol's scripts on it. */
export type RedisConnection = ReturnType<typeof openStandalone>;

function openStandalone(options: RedisStoreOptions) {
  return createClient({
    url: options.url,
    scripts,
    // Commands queued while offline would be sent to the next server, under the last one's incarnation.
    disableOfflineQueue: true,
    // A maintenance notice makes node-redis swap the socket under commands already queued, without a 'ready'.
    maintNotifications: 'disabled',
    commandsQueueMaxLength: options.maxQueuedCommands ?? 10_000,
    // node-redis's own timeout ends when a command is written, so it never sees a server that hangs; within() does.
    commandOptions: { timeout: undefined },
    socket: {
      connectTimeout: options.connectTimeoutMs ?? 2_000,
      // connectTimeout covers TCP only: this one ends a handshake that hangs. The heartbeat keeps healthy sockets below it.
      socketTimeout: 5 * HEARTBEAT_MS,
      keepAlive: true,
      keepAliveInitialDelay: 5_000,
      reconnectStrategy: (retries) => {
        const ceiling = Math.min(50 * 2 ** Math.min(retries, 10), 2_000);
        return Math.round(ceiling * (0.5 + Math.random() / 2));
      },
    },
  });
}

/** A {@link CacheStore} in one Redis server (6 or later, any eviction policy but `noeviction`). */
export class RedisStore implements CacheStore {
  /** For whoever shares the connection. Commands sent here carry neither the incarnation nor the command timeout. */
  readonly client: RedisConnection;
  private readonly commandTimeoutMs: number;
  private identity: { readonly epoch: number; readonly prefix: string } | undefined;
  private batch: { readonly places: Map<string, number>; readonly entries: Promise<CacheEntry[]> } | undefined;
  private heartbeat: NodeJS.Timeout | undefined;
  private closed = false;
  private lastReported = false;

  private constructor(
    client: RedisConnection,
    private readonly options: RedisStoreOptions,
  ) {
    this.client = client;
    this.commandTimeoutMs = options.commandTimeoutMs ?? 200;
    client.on('error', (error: Error) => {
      this.options.onError?.(error);
      // An error on a connection that is still up is a broken reply stream: the next replies would answer other commands.
      this.reconnect();
      this.reportState();
    });
    client.on('end', () => this.reportState());
    client.on('connect', () => {
      // destroy() does not reach a connection attempt under way.
      if (this.closed) client.destroy();
    });
    client.on('ready', () => {
      for (const script of Object.values(scripts)) client.scriptLoad(script.SCRIPT).catch(() => undefined);
      void this.identify();
    });
    this.open();
  }

  /** Returns at once and connects in the background, for ever: `available` is false until the server is known. */
  static connect(options: RedisStoreOptions): RedisStore {
    return new RedisStore(openStandalone(options), options);
  }

  get available(): boolean {
    return this.prefix !== undefined;
  }

  /** What keys begin with on this connection: `hf:<incarnation>:`. Undefined while the server is unknown. */
  get prefix(): string | undefined {
    const { identity, client } = this;
    return identity && client.isReady && identity.epoch === client.socketEpoch && !this.closed
      ? identity.prefix
      : undefined;
  }

  /** Reads asked for in the same turn of the event loop, by whomever, go out as one MGET. */
  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    if (keys.length === 0) return [];
    this.demandPrefix();
    const batch = (this.batch ??= this.openBatch());
    const places = keys.map((key) => {
      const place = batch.places.get(key) ?? batch.places.size;
      batch.places.set(key, place);
      return place;
    });
    if (batch.places.size >= MAX_BATCHED_KEYS) this.batch = undefined;
    const entries = await batch.entries;
    return places.map((place) => entries[place]!);
  }

  async lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    const args = [checked(token), milliseconds(ms)];
    const replies = await this.each(keys, (name, key) => this.client.hfLease(name + key, ...args));
    return replies.map(decode);
  }

  async fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    checked(token);
    // Encoded before anything is sent: a refused value must not leave half of the others on their way.
    const steps = values.map((it) => [it.key, encode(it), milliseconds(it.ttlMs)] as const);
    const replies = await this.each(steps, (name, [key, entry, ms]) =>
      this.client.hfFill(name + key, token, entry, ms),
    );
    return replies.map((reply) => reply === 1);
  }

  async fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    const args = [checked(token), milliseconds(ms)];
    await this.each(keys, (name, key) => this.client.hfFence(name + key, ...args));
  }

  async publish(token: string, publications: readonly CachePublication[]): Promise<void> {
    checked(token);
    const steps = publications.map((it) =>
      'absent' in it ? ([it.key, '', ''] as const) : ([it.key, encode(it), milliseconds(it.ttlMs)] as const),
    );
    await this.each(steps, (name, [key, entry, ms]) => this.client.hfPublish(name + key, token, entry, ms));
  }

  async unfence(keys: readonly string[], token: string): Promise<void> {
    checked(token);
    await this.each(keys, (name, key) => this.client.hfUnfence(name + key, token));
  }

  async ping(): Promise<void> {
    this.demandPrefix();
    await within(this.client.ping(), this.commandTimeoutMs);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.heartbeat);
    this.client.destroy();
    this.reportState();
  }

  private demandPrefix(): string {
    const prefix = this.prefix;
    if (prefix === undefined) throw new CacheUnavailableError('Redis is not connected');
    return prefix;
  }

  /** One command for each item, all of them issued in this tick, which node-redis writes together. */
  private async each<Item, Reply>(
    items: readonly Item[],
    send: (prefix: string, item: Item) => Promise<Reply>,
  ): Promise<Reply[]> {
    if (items.length === 0) return [];
    const prefix = this.demandPrefix();
    return within(Promise.all(items.map((item) => send(prefix, item))), this.commandTimeoutMs);
  }

  private openBatch() {
    const places = new Map<string, number>();
    const turn = new Promise<void>((resolve) => setImmediate(resolve));
    const entries = turn.then(async () => {
      if (this.batch?.places === places) this.batch = undefined;
      // The connection may have changed since the calls: the prefix is the one in force when the command goes out. MGET even
      // for one key: it reads a key of another type as absent, where GET would fail.
      const prefix = this.demandPrefix();
      const keys = Array.from(places.keys(), (key) => prefix + key);
      const replies = await within(this.client.mGet(keys), this.commandTimeoutMs);
      if (Array.isArray(replies) && replies.length === keys.length) return replies.map(decode);
      // The reply to another command: so would be all that follow.
      this.reconnect();
      throw new CacheUnavailableError('Redis answered something else than was asked');
    });
    return { places, entries };
  }

  private open(): void {
    // It retries by itself for ever, and each failure has been an 'error' event.
    this.client.connect().catch(() => undefined);
  }

  private reconnect(): void {
    if (this.closed || !this.client.isReady) return;
    this.client.destroy();
    this.open();
  }

  /**
   * Learns which server this connection leads to, and again with each heartbeat: a silent server, or one that has become a
   * replica (whose copies carry other servers' incarnations and old ones of its own), is left.
   */
  private async identify(): Promise<void> {
    clearTimeout(this.heartbeat);
    const epoch = this.client.socketEpoch;
    let identity: typeof this.identity;
    let failure: Error | undefined;
    try {
      const [server, replication] = await within(
        Promise.all([this.client.info('server'), this.client.info('replication')]),
        IDENTIFY_TIMEOUT_MS,
      );
      const runId = /^run_id:(\w+)/m.exec(server)?.[1];
      if (runId === undefined) throw new CacheUnavailableError('Redis does not tell its run_id');
      if (!/^role:master/m.test(replication)) throw new CacheUnavailableError('Redis is a replica');
      identity = { epoch, prefix: `hf:${runId.slice(0, 16)}:` };
    } catch (error) {
      failure = error as Error;
    }
    if (this.closed || !this.client.isReady || epoch !== this.client.socketEpoch) return;
    this.identity = identity;
    if (failure) this.options.onError?.(failure);
    this.heartbeat = failure
      ? setTimeout(() => this.reconnect(), IDENTIFY_RETRY_MS)
      : setTimeout(() => void this.identify(), HEARTBEAT_MS);
    this.heartbeat.unref();
    this.reportState();
  }

  private reportState(): void {
    if (this.available === this.lastReported) return;
    this.lastReported = this.available;
    this.options.onStateChange?.(this.lastReported);
  }
}

/** The answer, or a CacheUnavailableError after `ms`. The command itself stays sent: its outcome is unknown. */
async function within<T>(answer: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_, reject) => {
    // One more look at the sockets first: a stall of this process's own must not count against Redis.
    timer = setTimeout(
      () => setImmediate(() => reject(new CacheUnavailableError(`Redis did not answer in ${ms} ms`))),
      ms,
    );
  });
  try {
    return await Promise.race([answer, silence]);
  } catch (cause) {
    if (cause instanceof CacheUnavailableError) throw cause;
    throw new CacheUnavailableError(`Redis failed: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  } finally {
    clearTimeout(timer);
  }
}

function milliseconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms)));
}
