/**
 * The fenced cache in Redis: each step is a script (redis-scripts.ts), sent to the node that serves
 * its key.
 *
 * Invariant: a reply counts only if it came within the command timeout, from a node that still
 * serves the key, in the incarnation that the Redis key names. Anything else is "unavailable".
 */
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  PartiallyUnavailableError,
} from '../cache-store.js';
import { IncarnationChangedError } from './incarnation-witness.js';
import type { NearList } from '../../near/near-list.js';
import { RedisCluster } from './redis-cluster.js';
import { type RedisConnectionOptions, replyWithin } from './redis-connection.js';
import { RedisNearList } from './redis-near-list.js';
import type { RedisNode, RedisScriptName } from './redis-node.js';
import { checkToken, decodeEntry, encodeEntry } from './redis-scripts.js';
import { RedisSentinels } from './redis-sentinels.js';
import { RedisStandalone, type RedisTopology } from './redis-topology.js';
import { parseRedisUrl, type RedisTarget, type RedisTopologyName } from './redis-url.js';

/** Times are milliseconds. */
export interface RedisStoreOptions {
  /** One of the forms of {@link parseRedisUrl}. */
  readonly url: string;
  /**
   * No call waits longer than this for its reply; a read for which the incarnation changed waits at
   * most twice as long. Default 200.
   */
  readonly commandTimeoutMs?: number;
  /** How long one attempt to connect (TCP) may take; default 2000. */
  readonly connectTimeoutMs?: number;
  /** Commands that may wait for one server; further ones are rejected at once. Default 10 000. */
  readonly maxQueuedCommands?: number;
  /**
   * Called at each change of {@link RedisStore.isAvailable}. Called with true also when one more
   * part of a cluster appears: that part may have missed an invalidation meanwhile.
   */
  readonly onStateChange?: (isAvailable: boolean) => void;
  /** Called with every connection error. The store itself never logs. */
  readonly onError?: (error: Error) => void;
}

/**
 * Plain commands of one key, for other modules that share the connections. Their forms are those of
 * node-redis. Keys carry no incarnation, so what they read may be old. A command fails with a
 * {@link CacheUnavailableError} within the command timeout.
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

const DEFAULT_COMMAND_TIMEOUT_MS = 200;

/** Sends of one command: the first, and those after a redirect or a changed incarnation. */
const MAX_ATTEMPTS = 3;

/** How a key on an unreachable part of a cluster reads: "read PostgreSQL, fill nothing". */
const UNREACHABLE: CacheEntry = { state: 'fence' };

type TopologyClass = new (
  target: RedisTarget,
  options: RedisConnectionOptions,
  onChange: () => void,
) => RedisTopology;

const TOPOLOGIES: Readonly<Record<RedisTopologyName, TopologyClass>> = {
  standalone: RedisStandalone,
  sentinel: RedisSentinels,
  cluster: RedisCluster,
};

/** The arguments of one script for one key. */
interface ScriptCall {
  readonly key: string;
  readonly args: readonly string[];
}

/**
 * A {@link CacheStore} in Redis 6.2 or later: one server, Sentinels or a Cluster. The eviction
 * policy may be any but `noeviction`.
 */
export class RedisStore implements CacheStore {
  /** For other modules that share the connections. */
  readonly client: RedisCommands;
  readonly nearList: NearList;
  private readonly topology: RedisTopology;
  private readonly commandTimeoutMs: number;
  private isClosed = false;
  /** The nodes that were available at the last call of `onStateChange`. */
  private reportedNodes: ReadonlySet<RedisNode> = new Set();

  private constructor(
    target: RedisTarget,
    private readonly options: RedisStoreOptions,
  ) {
    const { commandTimeoutMs = DEFAULT_COMMAND_TIMEOUT_MS } = options;
    const Topology = TOPOLOGIES[target.topology];
    this.commandTimeoutMs = commandTimeoutMs;
    this.topology = new Topology(target, { ...options, commandTimeoutMs }, () =>
      this.reportState(),
    );
    this.client = this.createPlainCommands();
    this.nearList = new RedisNearList({
      commandTimeoutMs,
      send: (name, send) => this.sendTo(this.topology.localKeyOf(name), send),
    });
  }

  /**
   * Returns at once and connects in the background, for ever. Until then the store is unavailable.
   * @throws TypeError for a URL that {@link parseRedisUrl} does not accept
   */
  static connect(options: RedisStoreOptions): RedisStore {
    const target = parseRedisUrl(options.url);
    if (!target) throw new TypeError('Not a Redis URL: see parseRedisUrl for its forms');
    return new RedisStore(target, options);
  }

  /**
   * On a cluster: whether any part of it can be reached. The keys of the other parts read as
   * fenced, and writes to them fail.
   */
  get isAvailable(): boolean {
    return !this.isClosed && this.topology.nodes.length > 0;
  }

  get isSharded(): boolean {
    return this.topology.isSharded;
  }

  get identity(): string | undefined {
    return this.isClosed ? undefined : this.topology.identity;
  }

  /** The key's name in Redis now, `hf:<incarnation>:…`; undefined while its server is unknown. */
  redisKeyOf(key: string): string | undefined {
    const localKey = this.topology.localKeyOf(key);
    const prefix = this.topology.nodeOf(localKey)?.prefix;
    return prefix === undefined ? undefined : prefix + localKey;
  }

  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    if (keys.length === 0) return [];
    if (this.topology.isSharded) {
      return this.readEach(keys, (node, localKey) => node.readOne(localKey));
    }
    return this.sendTo(keys[0]!, (node) => node.readMany(keys));
  }

  async lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    const args = [checkToken(token), milliseconds(ms)];
    return this.readEach(keys, async (node, localKey) => {
      const text = await node.runScript<string | null>('lease', localKey, args);
      return decodeEntry(text);
    });
  }

  async fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    checkToken(token);
    // All are encoded before one is sent: an invalid value must not leave half of the others sent.
    const calls = values.map((value) => ({
      key: value.key,
      args: [token, encodeEntry(value), milliseconds(value.ttlMs)],
    }));
    const replies = await this.runScripts('fill', calls);
    return replies.map((reply) => reply === 1);
  }

  async replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    const calls = replacements.map(({ key, seen, version, payload, ttlMs }) => {
      const ttl = ttlMs === undefined ? '' : milliseconds(ttlMs);
      return { key, args: [encodeEntry(seen), encodeEntry({ version, payload }), ttl] };
    });
    const replies = await this.runScripts('replace', calls);
    return replies.map((reply) => reply === 1);
  }

  async fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    const args = [checkToken(token), milliseconds(ms)];
    await this.runScripts(
      'fence',
      keys.map((key) => ({ key, args })),
    );
  }

  async publish(token: string, publications: readonly CachePublication[]): Promise<boolean[]> {
    checkToken(token);
    const calls = publications.map((publication) => ({
      key: publication.key,
      args:
        'absent' in publication
          ? [token, '', '']
          : [token, encodeEntry(publication), milliseconds(publication.ttlMs)],
    }));
    // Each has a deadline of its own: a part of a cluster that is gone must not hide that the
    // others
    // have published.
    const results = await Promise.allSettled(
      calls.map((call) => replyWithin(this.commandTimeoutMs, this.runScript('publish', call))),
    );
    const failures = results.flatMap((result, index) =>
      result.status === 'rejected' ? [{ index, cause: result.reason as Error }] : [],
    );
    const [firstFailure] = failures;
    if (!firstFailure) {
      return results.map((result) => result.status === 'fulfilled' && result.value === 1);
    }
    const { cause } = firstFailure;
    if (failures.length === calls.length) throw cause;
    const keys = failures.map(({ index }) => calls[index]!.key);
    throw new PartiallyUnavailableError(
      `Could not publish ${keys.length} of ${calls.length} keys: ${cause.message}`,
      keys,
      { cause },
    );
  }

  async unfence(keys: readonly string[], token: string): Promise<void> {
    const args = [checkToken(token)];
    await this.runScripts(
      'unfence',
      keys.map((key) => ({ key, args })),
    );
  }

  /** On a cluster, every server must answer that is not already known to be gone. */
  async ping(): Promise<void> {
    if (!this.isAvailable) throw new CacheUnavailableError('Redis is not connected');
    await this.sendEach(this.topology.nodes, (node) => node.ping());
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    this.topology.close();
    this.reportState();
  }

  private createPlainCommands(): RedisCommands {
    const send = (key: string, ...command: string[]): Promise<unknown> =>
      replyWithin(
        this.commandTimeoutMs,
        this.sendTo(key, (node) => node.connection.sendCommand<unknown>(command)),
      );
    return {
      get: (key) => send(key, 'GET', key) as Promise<string | null>,
      set: (key, value, { PX } = {}) => {
        const expiry = PX ? ['PX', milliseconds(PX)] : [];
        return send(key, 'SET', key, value, ...expiry);
      },
      del: (key) => send(key, 'DEL', key) as Promise<number>,
      eval: (script, { keys: [key], arguments: args }) =>
        send(key, 'EVAL', script, '1', key, ...args),
    };
  }

  private readEach(
    keys: readonly string[],
    send: (node: RedisNode, localKey: string) => Promise<CacheEntry>,
  ): Promise<CacheEntry[]> {
    return this.sendEach(keys, async (key) => {
      try {
        return await this.sendTo(this.topology.localKeyOf(key), send);
      } catch (error) {
        // A cluster that has lost a part still serves the others, also to a call for keys of both.
        if (this.topology.isSharded && this.isAvailable) return UNREACHABLE;
        throw error;
      }
    });
  }

  private runScripts(script: RedisScriptName, calls: readonly ScriptCall[]): Promise<number[]> {
    return this.sendEach(calls, (call) => this.runScript(script, call));
  }

  private runScript(script: RedisScriptName, { key, args }: ScriptCall): Promise<number> {
    return this.sendTo(this.topology.localKeyOf(key), (node, localKey) =>
      node.runScript<number>(script, localKey, args),
    );
  }

  /**
   * Sends to the node that serves `name` (any Redis key or local key). If the name has moved, or
   * the node has begun another incarnation, the command had no effect and is sent again: to the
   * node that serves the name now, under its current incarnation.
   */
  private async sendTo<Reply>(
    name: string,
    send: (node: RedisNode, name: string) => Promise<Reply>,
    remainingAttempts = MAX_ATTEMPTS,
  ): Promise<Reply> {
    const node = this.isClosed ? undefined : this.topology.nodeOf(name);
    if (node?.prefix === undefined) throw new CacheUnavailableError('Redis is not connected');
    try {
      const reply = await send(node, name);
      if (this.topology.nodeOf(name) === node) return reply;
    } catch (error) {
      const hadNoEffect =
        this.topology.followRedirect(name, error) || error instanceof IncarnationChangedError;
      if (!hadNoEffect || remainingAttempts === 1) throw error;
      return this.sendTo(name, send, remainingAttempts - 1);
    }
    throw new CacheUnavailableError('Another Redis server serves the key now');
  }

  /** Sends all in this tick, so that node-redis writes them together, and waits for all replies. */
  private async sendEach<Item, Reply>(
    items: readonly Item[],
    send: (item: Item) => Promise<Reply>,
  ): Promise<Reply[]> {
    if (items.length === 0) return [];
    return replyWithin(this.commandTimeoutMs, Promise.all(items.map(send)));
  }

  private reportState(): void {
    const nodesBefore = this.reportedNodes;
    this.reportedNodes = new Set(this.isClosed ? [] : this.topology.nodes);
    const isGone = nodesBefore.size > 0 && this.reportedNodes.size === 0;
    const hasNewNode = [...this.reportedNodes].some((node) => !nodesBefore.has(node));
    if (isGone || hasNewNode) this.options.onStateChange?.(hasNewNode);
  }
}

/** As an argument for Redis: a whole number ≥ 1. */
function milliseconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms)));
}
