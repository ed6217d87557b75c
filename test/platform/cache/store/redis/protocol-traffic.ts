/**
 * Clients that read and write through the protocol while servers fail. The "database" is a Map.
 * Each read checks that it is no older than what was acknowledged before it began.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { CacheUnavailableError } from '../../../../../src/platform/cache/store/cache-store.js';
import type { RedisStore } from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../../support/eventually.js';

const LONG_MS = 60_000;
const WRITERS = 4;
const READERS = 12;
const MAX_REST_MS = 8;

export interface TrafficCounts {
  readonly hits: number;
  readonly writes: number;
  /** Steps that were rejected as unavailable. */
  readonly unavailable: number;
}

export class ProtocolTraffic {
  readonly counts = { hits: 0, writes: 0, unavailable: 0 };
  /** Reads that were older than an acknowledged write, and errors that must not occur. */
  readonly violations: string[] = [];
  private readonly rows: Map<string, number>;
  private readonly acknowledged: Map<string, number>;
  private readonly beingWritten = new Set<string>();
  private readonly clients: Promise<void>[];
  private isRunning = true;
  private tokenCount = 0;

  /** @param stores one for each node */
  constructor(
    private readonly stores: readonly RedisStore[],
    private readonly keys: readonly string[],
  ) {
    this.rows = new Map(keys.map((key) => [key, 1]));
    this.acknowledged = new Map(this.rows);
    const writers = Array.from({ length: WRITERS }, () =>
      this.runClient((store, key) => this.write(store, key)),
    );
    const readers = Array.from({ length: READERS }, () =>
      this.runClient((store, key) => this.read(store, key)),
    );
    this.clients = [...writers, ...readers];
  }

  /** Resolves when there have been many hits and writes since the call. */
  async awaitWork(): Promise<void> {
    const { hits, writes } = this.counts;
    await eventually('the clients hit and write', () => {
      return this.counts.hits > hits + 200 && this.counts.writes > writes + 50;
    });
  }

  /** Ends the clients. */
  async stop(): Promise<TrafficCounts> {
    this.isRunning = false;
    await Promise.all(this.clients);
    return this.counts;
  }

  private async runClient(step: (store: RedisStore, key: string) => Promise<void>): Promise<void> {
    while (this.isRunning) {
      try {
        await step(pickRandom(this.stores), pickRandom(this.keys));
        // Without a rest, the clients would take a processor for as long as a failover lasts.
        await sleep(Math.random() * MAX_REST_MS);
      } catch (error) {
        if (error instanceof CacheUnavailableError) this.counts.unavailable++;
        else this.violations.push(String(error));
        await sleep(2);
      }
    }
  }

  private async read(store: RedisStore, key: string): Promise<void> {
    const minVersion = this.acknowledged.get(key)!;
    const [entry] = await store.get([key]);
    if (entry!.state === 'value') {
      this.counts.hits++;
      if (entry!.version < minVersion) {
        const redisKey = store.redisKeyOf(key);
        this.violations.push(`${redisKey}: version ${entry!.version} after ${minVersion}`);
      }
      return;
    }
    const token = this.createToken();
    const [leased] = await store.lease([key], token, LONG_MS);
    if (leased!.state !== 'absent') return;
    const version = this.rows.get(key)!;
    await sleep(Math.random() * 3);
    await store.fill(token, [valueOf(key, version)]);
  }

  /** A write whose key cannot be fenced is rejected before its COMMIT. */
  private async write(store: RedisStore, key: string): Promise<void> {
    if (this.beingWritten.has(key)) return;
    this.beingWritten.add(key);
    const token = this.createToken();
    try {
      await store.fence([key], token, LONG_MS);
      await sleep(Math.random() * 3);
      const version = this.rows.get(key)! + 1;
      this.rows.set(key, version);
      await store
        .publish(token, [valueOf(key, version)])
        .catch(() => this.deleteKey(store, token, key));
      this.acknowledged.set(key, version);
      this.counts.writes++;
    } finally {
      this.beingWritten.delete(key);
    }
  }

  /** Deletes the key as soon as that is possible, as cache_invalidations does. */
  private async deleteKey(store: RedisStore, token: string, key: string): Promise<void> {
    while (this.isRunning) {
      try {
        await store.publish(token, [{ key, absent: true }]);
        return;
      } catch {
        await sleep(5);
      }
    }
  }

  private createToken(): string {
    this.tokenCount++;
    return `t${this.tokenCount}`;
  }
}

const valueOf = (key: string, version: number) => ({
  key,
  version,
  payload: String(version),
  ttlMs: LONG_MS,
});

const pickRandom = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!;
