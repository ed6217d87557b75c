/**
 * One Redis server: a connection that is replaced for as long as the node is in use, and the
 * commands that this service sends on it. Every command about a cached row is certified by the
 * {@link IncarnationWitness}.
 */
import { type CacheEntry, CacheUnavailableError } from '../cache-store.js';
import { IncarnationChangedError, IncarnationWitness } from './incarnation-witness.js';
import {
  createConnection,
  type RedisConnection,
  type RedisConnectionOptions,
  replyWithin,
} from './redis-connection.js';
import { decodeEntry, scripts } from './redis-scripts.js';
import type { RedisAddress, RedisTarget } from './redis-url.js';

export type RedisScriptName = keyof typeof scripts;

export class RedisNode {
  /** For commands that no incarnation protects. */
  readonly connection: RedisConnection;
  private readonly witness: IncarnationWitness;
  private isClosed = false;

  /**
   * Connects in the background, for ever.
   * @param onChange called when {@link prefix} may have come, gone or changed
   */
  constructor(
    private readonly target: RedisTarget,
    readonly address: RedisAddress,
    private readonly options: RedisConnectionOptions,
    private readonly onChange: () => void,
  ) {
    this.connection = createConnection(target, address, options);
    this.witness = new IncarnationWitness(this.connection, {
      isClustered: target.topology === 'cluster',
      onChange,
      onError: (error) => options.onError?.(error),
      reconnect: () => this.reconnect(),
    });
    this.handleEvents();
    this.connect();
  }

  /**
   * What keys begin with on this server: `hf:<incarnation>:`. Undefined while its incarnation is
   * unknown or it is not a master.
   */
  get prefix(): string | undefined {
    return this.witness.prefix;
  }

  /** In a cluster: the latest config epoch of any node that this one has heard of. */
  get latestConfigEpoch(): number {
    return this.witness.latestConfigEpoch;
  }

  /**
   * Reads many keys with one MGET, within the command timeout. Not for a cluster, where one command
   * cannot have keys of several slots.
   */
  async readMany(localKeys: readonly string[]): Promise<CacheEntry[]> {
    const reply = this.witness.sendCertified((prefix) =>
      this.connection.mGet(localKeys.map((localKey) => prefix + localKey)),
    );
    const texts = await replyWithin(this.options.commandTimeoutMs, reply);
    if (!Array.isArray(texts) || texts.length !== localKeys.length) {
      // Most likely the reply to another command. All further replies would be shifted as well.
      this.reconnect();
      throw new CacheUnavailableError('Redis gave a reply that does not fit the command');
    }
    return texts.map(decodeEntry);
  }

  async readOne(localKey: string): Promise<CacheEntry> {
    // MGET even for one key: a key that is no string reads as absent, where GET would fail.
    const [text = null] = await this.witness.sendCertified((prefix) =>
      this.connection.mGet([prefix + localKey]),
    );
    return decodeEntry(text);
  }

  /** Runs one of the protocol's scripts on one key. */
  runScript<Reply>(
    name: RedisScriptName,
    localKey: string,
    args: readonly string[],
  ): Promise<Reply> {
    const { text, sha1 } = scripts[name];
    return this.witness.sendCertified(async (prefix) => {
      const operands = ['1', prefix + localKey, ...args];
      try {
        return await this.connection.sendCommand<Reply>(['EVALSHA', sha1, ...operands]);
      } catch (error) {
        const isScriptMissing = error instanceof Error && error.message.startsWith('NOSCRIPT');
        if (!isScriptMissing) throw error;
      }
      // A certificate of its own: the one requested above was for the first attempt.
      return this.witness.sendCertified((currentPrefix) => {
        if (currentPrefix !== prefix) throw new IncarnationChangedError();
        return this.connection.sendCommand<Reply>(['EVAL', text, ...operands]);
      });
    });
  }

  async ping(): Promise<void> {
    await this.witness.sendCertified(() => this.connection.ping());
  }

  /** A connection of its own to this server, not yet connected. */
  createListenConnection(): RedisConnection {
    return createConnection(this.target, this.address, this.options);
  }

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.witness.close();
    this.connection.destroy();
  }

  private handleEvents(): void {
    const { connection } = this;
    connection.on('error', (error: Error) => {
      this.options.onError?.(error);
      // An error on a connection that is still up means a broken stream of replies: each further
      // reply would answer another command.
      this.reconnect();
      this.onChange();
    });
    connection.on('end', () => this.onChange());
    connection.on('connect', () => {
      // destroy() does not stop a connection attempt that is under way.
      if (this.isClosed) connection.destroy();
    });
    connection.on('ready', () => {
      for (const { text } of Object.values(scripts)) {
        connection.scriptLoad(text).catch(() => undefined);
      }
      void this.witness.watch();
    });
  }

  private connect(): void {
    // node-redis retries for ever. It has reported each failure as an 'error' event.
    this.connection.connect().catch(() => undefined);
  }

  private reconnect(): void {
    if (this.isClosed || !this.connection.isReady) return;
    this.connection.destroy();
    this.connect();
  }
}
