/**
 * One connection to one Redis server, and the server's incarnation. The invariant: an answer is given out only if the server
 * was, when it ran the command, in the incarnation that the command's keys name; so nothing that it holds from another life
 * (before a restart, a demotion, or a slot's journey through other servers) can be read, and nothing is written to one.
 *
 * The incarnation is the process's `run_id`, which a connection cannot outlive, and a fact that is new for each life within
 * the process: `master_replid`, drawn at random whenever a server becomes a master; in a cluster the node's own config epoch,
 * raised by each failover and each import of a slot. The latter may change under an open connection. So the commands of one
 * turn of the event loop are followed, on the same connection, by the question which life this is (1 µs of the server's time,
 * in a cluster 10): since no life comes twice, the answer also held for what went before it. No clock takes part.
 */
import { createClient } from 'redis';
import { type CacheEntry, CacheUnavailableError } from './cache.store.js';
import { decode, scripts } from './redis.scripts.js';
import type { RedisAddress, RedisTarget } from './redis.url.js';

/** What each connection needs to know. Times are milliseconds. */
export interface NodeOptions {
  readonly commandTimeoutMs: number;
  readonly connectTimeoutMs?: number | undefined;
  readonly maxQueuedCommands?: number | undefined;
  readonly onError?: ((error: Error) => void) | undefined;
}

const HEARTBEAT_MS = 1_000;
const IDENTIFY_TIMEOUT_MS = 1_000;
const IDENTIFY_RETRY_MS = 250;

/** The server had begun another life when it ran the command, which has changed nothing there that anybody will see. */
export class AnotherLifeError extends CacheUnavailableError {
  constructor() {
    super('Redis has begun another life');
  }
}

/** A node-redis client as this service wants it: nothing is queued while offline, retried, or sent on another connection. */
export function openClient(
  target: RedisTarget,
  address: RedisAddress,
  options: NodeOptions,
  RESP: 2 | 3 = 3,
) {
  return createClient({
    RESP,
    username: target.username,
    password: target.password,
    database: target.database,
    // Commands queued while offline would be sent to the next server, under the last one's incarnation.
    disableOfflineQueue: true,
    // A maintenance notice makes node-redis swap the socket under commands already queued, without a 'ready'.
    maintNotifications: 'disabled',
    commandsQueueMaxLength: options.maxQueuedCommands ?? 10_000,
    // node-redis's own timeout ends when a command is written, so it never sees a server that hangs; within() does.
    commandOptions: { timeout: undefined },
    socket: {
      host: address.host,
      port: address.port,
      ...(target.tls ? { tls: true } : {}),
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

export class RedisNode {
  /** For commands that no incarnation protects. */
  readonly client: ReturnType<typeof openClient>;
  /** In a cluster: the latest config epoch of any node that this one has heard of. */
  worldEpoch = 0;
  private readonly clustered: boolean;
  private life:
    { readonly epoch: number; readonly runId: string; prefix: string | undefined } | undefined;
  private certificate: Promise<string> | undefined;
  private heartbeat: NodeJS.Timeout | undefined;
  private closed = false;

  /**
   * Connects in the background, for ever.
   * @param onChange called when {@link prefix} may have come, gone or changed
   */
  constructor(
    target: RedisTarget,
    readonly address: RedisAddress,
    private readonly options: NodeOptions,
    private readonly onChange: () => void,
  ) {
    this.clustered = target.topology === 'cluster';
    const client = (this.client = openClient(target, address, options));
    client.on('error', (error: Error) => {
      this.options.onError?.(error);
      // An error on a connection that is still up is a broken reply stream: the next replies would answer other commands.
      this.reconnect();
      this.onChange();
    });
    client.on('end', () => this.onChange());
    client.on('connect', () => {
      // destroy() does not reach a connection attempt under way.
      if (this.closed) client.destroy();
    });
    client.on('ready', () => {
      for (const script of Object.values(scripts))
        client.scriptLoad(script.SCRIPT).catch(() => undefined);
      void this.identify();
    });
    this.open();
  }

  /** What keys begin with on this connection: `hf:<incarnation>:`. Undefined while the server is unknown or no master. */
  get prefix(): string | undefined {
    const { life, client } = this;
    return life && client.isReady && life.epoch === client.socketEpoch && !this.closed
      ? life.prefix
      : undefined;
  }

  /** One MGET, bounded by the command timeout. Not for a cluster: slots differ. */
  async read(locals: readonly string[]): Promise<CacheEntry[]> {
    const asked = this.run((prefix) => this.client.mGet(locals.map((local) => prefix + local)));
    const replies = await within(asked, this.options.commandTimeoutMs);
    if (Array.isArray(replies) && replies.length === locals.length) return replies.map(decode);
    this.reconnect();
    throw new CacheUnavailableError('Redis answered something else than was asked');
  }

  async readOne(local: string): Promise<CacheEntry> {
    // MGET even for one key: it reads a key of another type as absent, where GET would fail.
    const [reply = null] = await this.run((prefix) => this.client.mGet([prefix + local]));
    return decode(reply);
  }

  /** One of the protocol's scripts over one key. */
  step<Reply>(name: keyof typeof scripts, local: string, args: readonly string[]): Promise<Reply> {
    const script = scripts[name];
    return this.run(async (prefix) => {
      const operands = ['1', prefix + local, ...args];
      try {
        return await this.client.sendCommand<Reply>(['EVALSHA', script.SHA1, ...operands]);
      } catch (error) {
        if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error;
      }
      // The question that followed the first attempt says nothing of this one.
      return this.run((current) => {
        if (current !== prefix) throw new AnotherLifeError();
        return this.client.sendCommand<Reply>(['EVAL', script.SCRIPT, ...operands]);
      });
    });
  }

  async ping(): Promise<void> {
    await this.run(() => this.client.ping());
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.heartbeat);
    this.client.destroy();
  }

  /** The reply to what `send` sends in this turn, if it was run in the incarnation that `prefix` names. */
  private async run<Reply>(send: (prefix: string) => Promise<Reply>): Promise<Reply> {
    const prefix = this.demandPrefix();
    // Made first, so that its turn comes before node-redis writes what was sent.
    const certificate = (this.certificate ??= this.certify());
    const [reply, witnessed] = await Promise.all([send(prefix), certificate]);
    if (witnessed !== prefix) throw new AnotherLifeError();
    return reply;
  }

  private async certify(): Promise<string> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.certificate = undefined;
    return this.askLife();
  }

  /** Asks which life the server of this connection is in, and believes it. */
  private async askLife(): Promise<string> {
    const { life, client } = this;
    const said = await (this.clustered ? client.clusterInfo() : client.info('replication'));
    if (!life || life !== this.life)
      throw new CacheUnavailableError('Redis is being asked who it is');
    const fact = this.clustered ? /^cluster_my_epoch:(\d+)/m : /^master_replid:(\w{8})/m;
    const found = typeof said === 'string' ? fact.exec(said)?.[1] : undefined;
    if (found === undefined) {
      // Most likely the reply to another command: so would be all that follow.
      this.reconnect();
      throw new CacheUnavailableError('Redis answered something else than was asked');
    }
    this.worldEpoch = Number(/^cluster_current_epoch:(\d+)/m.exec(said)?.[1] ?? 0);
    const before = life.prefix;
    // What a replica holds is a copy of another server's keys, and of old ones of its own.
    const replica = /^role:(?!master)/m.test(said);
    life.prefix = replica ? undefined : `hf:${life.runId}.${found}:`;
    if (life.prefix !== before) this.onChange();
    if (life.prefix === undefined) throw new CacheUnavailableError('Redis is a replica');
    return life.prefix;
  }

  /**
   * Learns which server this connection leads to, and with each heartbeat which life it is in: a silent server, or one that
   * has become a replica, is left.
   */
  private async identify(): Promise<void> {
    clearTimeout(this.heartbeat);
    const { client } = this;
    const epoch = client.socketEpoch;
    const stillThere = () => !this.closed && client.isReady && epoch === client.socketEpoch;
    let failure: Error | undefined;
    try {
      if (this.life?.epoch !== epoch) {
        const runId = /^run_id:(\w{16})/m.exec(
          await within(client.info('server'), IDENTIFY_TIMEOUT_MS),
        )?.[1];
        if (runId === undefined) throw new CacheUnavailableError('Redis does not tell its run_id');
        if (!stillThere()) return;
        this.life = { epoch, runId, prefix: undefined };
      }
      await within(this.askLife(), IDENTIFY_TIMEOUT_MS);
    } catch (error) {
      failure = error as Error;
    }
    if (!stillThere()) return;
    if (failure) {
      this.life = undefined;
      this.options.onError?.(failure);
    }
    this.heartbeat = failure
      ? setTimeout(() => this.reconnect(), IDENTIFY_RETRY_MS)
      : setTimeout(() => void this.identify(), HEARTBEAT_MS);
    this.heartbeat.unref();
    this.onChange();
  }

  private demandPrefix(): string {
    const prefix = this.prefix;
    if (prefix === undefined) throw new CacheUnavailableError('Redis is not connected');
    return prefix;
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
}

/** The answer, or a CacheUnavailableError after `ms`. The command itself stays sent: its outcome is unknown. */
export async function within<T>(answer: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_, reject) => {
    // One more look at the sockets first: a stall of this process's own must not count against Redis.
    timer = setTimeout(
      () =>
        setImmediate(() => reject(new CacheUnavailableError(`Redis did not answer in ${ms} ms`))),
      ms,
    );
  });
  try {
    return await Promise.race([answer, silence]);
  } catch (cause) {
    if (cause instanceof CacheUnavailableError) throw cause;
    throw new CacheUnavailableError(
      `Redis failed: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
      },
    );
  } finally {
    clearTimeout(timer);
  }
}
