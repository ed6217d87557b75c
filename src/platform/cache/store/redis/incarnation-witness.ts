/**
 * Learns, certifies and watches the incarnation of the server behind one connection. An incarnation
 * is one period of a server as a master: a restart, a failover or a moved slot ends it.
 *
 * Invariant: a reply is returned only if the server ran the command in the incarnation that the
 * command's keys name (docs/adr/0004-redis-topologies.md).
 */
import { CacheUnavailableError } from '../cache-store.js';
import { HEARTBEAT_INTERVAL_MS, type RedisConnection, replyWithin } from './redis-connection.js';

const IDENTIFY_TIMEOUT_MS = 1_000;
/** Milliseconds until a connection whose server could not be identified is replaced. */
const IDENTIFY_RETRY_MS = 250;

/** Identifies a server process. A connection cannot outlive it. */
const RUN_ID = /^run_id:(\w{16})/m;
/** Drawn at random whenever a server becomes a master (INFO replication). */
const MASTER_REPLICATION_ID = /^master_replid:(\w{8})/m;
/** Of a cluster's node: raised by each failover to it and each import of a slot (CLUSTER INFO). */
const NODE_CONFIG_EPOCH = /^cluster_my_epoch:(\d+)/m;
const LATEST_CONFIG_EPOCH = /^cluster_current_epoch:(\d+)/m;
const IS_MASTER = /^role:master\b/m;

/**
 * The server ran the command in another incarnation than the one that the command's keys name. The
 * command changed nothing that anybody will read, so it may be sent again.
 */
export class IncarnationChangedError extends CacheUnavailableError {
  constructor() {
    super('The Redis server has another incarnation than the command was sent for');
  }
}

export interface IncarnationWitnessOptions {
  /** Whether the server is a node of a Redis Cluster. */
  readonly isClustered: boolean;
  /** Called when {@link IncarnationWitness.prefix} may have come, gone or changed. */
  readonly onChange: () => void;
  readonly onError: (error: Error) => void;
  /** Replaces the connection, whose replies cannot be trusted any more. */
  readonly reconnect: () => void;
}

/** What is known about the server of one connection. */
interface ServerIdentity {
  /** node-redis's number of the connection: another one means another connection. */
  readonly socketEpoch: number;
  readonly runId: string;
  /** Undefined while the server is not a master, or its incarnation is not known yet. */
  prefix: string | undefined;
}

/**
 * The incarnation is the process's `run_id` and a fact that is new in each incarnation of that
 * process: `master_replid`, or in a cluster the node's config epoch. That fact may change while the
 * connection stays open, so each command needs a certificate.
 *
 * A certificate is the answer to the question for the current incarnation, asked on the same
 * connection after the commands of one turn of the event loop. No incarnation comes twice; so if
 * the server has the expected one after a command, it had it when it ran the command. One question
 * serves all commands of the turn and costs the server 1 µs (in a cluster 10 µs). No clock is
 * involved.
 */
export class IncarnationWitness {
  /** In a cluster: the latest config epoch of any node that this server has heard of. */
  latestConfigEpoch = 0;
  private identity: ServerIdentity | undefined;
  /**
   * For the commands of this turn of the event loop: resolves with the server's prefix after them.
   */
  private certificate: Promise<string> | undefined;
  private heartbeat: NodeJS.Timeout | undefined;
  private isClosed = false;

  constructor(
    private readonly connection: RedisConnection,
    private readonly options: IncarnationWitnessOptions,
  ) {}

  /**
   * What keys begin with on this connection: `hf:<incarnation>:`. Undefined while the incarnation
   * is unknown or the server is not a master.
   */
  get prefix(): string | undefined {
    const { identity, connection } = this;
    if (!identity || !connection.isReady || this.isClosed) return undefined;
    return identity.socketEpoch === connection.socketEpoch ? identity.prefix : undefined;
  }

  /**
   * Sends a command whose keys begin with `prefix`.
   * @returns its reply, certified
   * @throws IncarnationChangedError when the server ran it in another incarnation
   */
  async sendCertified<Reply>(send: (prefix: string) => Promise<Reply>): Promise<Reply> {
    const { prefix } = this;
    if (prefix === undefined) throw new CacheUnavailableError('Redis is not connected');
    // Requested before `send` runs: the question must be queued before node-redis writes the
    // commands of this turn, so that both travel together.
    this.certificate ??= this.requestCertificate();
    const { certificate } = this;
    const [reply, certifiedPrefix] = await Promise.all([send(prefix), certificate]);
    if (certifiedPrefix !== prefix) throw new IncarnationChangedError();
    return reply;
  }

  /**
   * Learns which server a new connection leads to, then asks for its incarnation with each
   * heartbeat. A server that does not answer, or is no master, is disconnected. Call it for each
   * 'ready' event of the connection.
   */
  async watch(): Promise<void> {
    clearTimeout(this.heartbeat);
    const { socketEpoch } = this.connection;
    let failure: Error | undefined;
    try {
      await this.identify(socketEpoch);
    } catch (error) {
      failure = error as Error;
    }
    if (!this.isCurrent(socketEpoch)) return;
    if (failure) {
      this.identity = undefined;
      this.options.onError(failure);
      this.heartbeat = setTimeout(() => this.options.reconnect(), IDENTIFY_RETRY_MS);
    } else {
      this.heartbeat = setTimeout(() => void this.watch(), HEARTBEAT_INTERVAL_MS);
    }
    this.heartbeat.unref();
    this.options.onChange();
  }

  close(): void {
    this.isClosed = true;
    clearTimeout(this.heartbeat);
  }

  /** Whether this is still the connection, and it is up. */
  private isCurrent(socketEpoch: number): boolean {
    const { connection } = this;
    return !this.isClosed && connection.isReady && connection.socketEpoch === socketEpoch;
  }

  private async identify(socketEpoch: number): Promise<void> {
    if (this.identity?.socketEpoch !== socketEpoch) {
      const info = await replyWithin(IDENTIFY_TIMEOUT_MS, this.connection.info('server'));
      const runId = RUN_ID.exec(info)?.[1];
      if (runId === undefined) throw new CacheUnavailableError('INFO server has no run_id');
      if (!this.isCurrent(socketEpoch)) return;
      this.identity = { socketEpoch, runId, prefix: undefined };
    }
    await replyWithin(IDENTIFY_TIMEOUT_MS, this.readPrefix());
  }

  private async requestCertificate(): Promise<string> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.certificate = undefined;
    return this.readPrefix();
  }

  /**
   * Asks the server for its current incarnation and adopts it.
   * @throws CacheUnavailableError when the server is not a master, or its answer is not one
   */
  private async readPrefix(): Promise<string> {
    const { identity, connection, options } = this;
    const info = await (options.isClustered
      ? connection.clusterInfo()
      : connection.info('replication'));
    if (!identity || identity !== this.identity) {
      throw new CacheUnavailableError('The Redis server is not identified yet');
    }
    const fact = incarnationFact(info, options.isClustered);
    if (fact === undefined) {
      // Most likely the reply to another command. All further replies would be shifted as well.
      options.reconnect();
      throw new CacheUnavailableError('Redis gave a reply that does not fit the command');
    }
    this.latestConfigEpoch = Number(LATEST_CONFIG_EPOCH.exec(info)?.[1] ?? 0);
    const prefixBefore = identity.prefix;
    // A replica holds copies of another server's keys, and old keys of its own.
    const isMaster = options.isClustered || IS_MASTER.test(info);
    identity.prefix = isMaster ? `hf:${identity.runId}.${fact}:` : undefined;
    if (identity.prefix !== prefixBefore) options.onChange();
    if (identity.prefix === undefined) throw new CacheUnavailableError('Redis is a replica');
    return identity.prefix;
  }
}

/** @param info of any type: the reply may belong to another command */
function incarnationFact(info: unknown, isClustered: boolean): string | undefined {
  if (typeof info !== 'string') return undefined;
  const pattern = isClustered ? NODE_CONFIG_EPOCH : MASTER_REPLICATION_ID;
  return pattern.exec(info)?.[1];
}
