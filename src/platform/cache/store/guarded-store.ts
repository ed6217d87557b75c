/**
 * A circuit breaker and a batch of reads in front of a store that is reached over a network. After
 * three failures in a row, no request waits for the store until a ping succeeds.
 *
 * An open breaker costs speed only: reads go to PostgreSQL, writes are invalidated through it.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import {
  BrokenCircuitError,
  CircuitState,
  circuitBreaker,
  type CircuitBreakerPolicy,
  ConsecutiveBreaker,
  handleWhen,
} from 'cockatiel';
import type { NearList } from '../near/near-list.js';
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  PartiallyUnavailableError,
} from './cache-store.js';

/** Publishes each operation of the store, for tracing. */
const operations = tracingChannel<object, object>('holdfast:cache');

/** Failures in a row that open the breaker. */
const MAX_FAILURES = 3;
/** Milliseconds that the breaker stays open before a ping may probe the store. */
const PROBE_DELAY_MS = 500;

/** Keys of one read. One command for more keys would block the server for all other clients. */
const MAX_BATCHED_KEYS = 500;

/** The keys that will be read when this turn of the event loop is over. */
interface Batch {
  /** Where each key's entry is among `entries`. */
  readonly indexByKey: Map<string, number>;
  readonly entries: Promise<CacheEntry[]>;
}

/** Whether the error says that the whole store is gone, not only some of its servers. */
const isStoreFailure = (error: unknown): boolean =>
  error instanceof CacheUnavailableError && !(error instanceof PartiallyUnavailableError);

export class GuardedStore implements CacheStore {
  private readonly breaker: CircuitBreakerPolicy;
  private batch: Batch | undefined;

  /**
   * @param onStateChange called each time the breaker opens (false) or closes (true)
   * @param agreement what the users of this store must agree on: a part of its identity
   */
  constructor(
    private readonly inner: CacheStore,
    onStateChange: (isAvailable: boolean) => void,
    private readonly agreement: () => string = () => '',
  ) {
    this.breaker = circuitBreaker(handleWhen(isStoreFailure), {
      halfOpenAfter: PROBE_DELAY_MS,
      breaker: new ConsecutiveBreaker(MAX_FAILURES),
    });
    this.breaker.onBreak(() => onStateChange(false));
    this.breaker.onReset(() => onStateChange(true));
  }

  get isAvailable(): boolean {
    return this.inner.isAvailable && !this.isBreakerOpen;
  }

  get isSharded(): boolean {
    return this.inner.isSharded ?? false;
  }

  get identity(): string | undefined {
    const identity = this.isBreakerOpen ? undefined : this.inner.identity;
    return identity === undefined ? undefined : identity + this.agreement();
  }

  get nearList(): NearList | undefined {
    return this.inner.nearList;
  }

  /** True also while a probe is under way. */
  get isBreakerOpen(): boolean {
    return this.breaker.state !== CircuitState.Closed;
  }

  /**
   * Reads of the same turn of the event loop share one command, which is sent after the last of
   * them; so no entry is older than the call that asked for it. On a sharded store each call sends
   * its own: a shared command would wait for the slowest server.
   */
  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    if (this.isSharded) return this.guard('get', () => this.inner.get(keys));
    this.batch ??= this.openBatch();
    const { indexByKey, entries } = this.batch;
    const indexes = keys.map((key) => {
      const index = indexByKey.get(key) ?? indexByKey.size;
      indexByKey.set(key, index);
      return index;
    });
    if (indexByKey.size >= MAX_BATCHED_KEYS) this.batch = undefined;
    const batchEntries = await entries;
    return indexes.map((index) => batchEntries[index]!);
  }

  lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    return this.guard('lease', () => this.inner.lease(keys, token, ms));
  }

  fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    return this.guard('fill', () => this.inner.fill(token, values));
  }

  replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    return this.guard('replace', () => this.inner.replace(replacements));
  }

  fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    return this.guard('fence', () => this.inner.fence(keys, token, ms));
  }

  publish(token: string, publications: readonly CachePublication[]): Promise<boolean[]> {
    return this.guard('publish', () => this.inner.publish(token, publications));
  }

  unfence(keys: readonly string[], token: string): Promise<void> {
    return this.guard('unfence', () => this.inner.unfence(keys, token));
  }

  /** The only operation that reaches the store while the breaker is open: it probes the store. */
  ping(): Promise<void> {
    return this.guard('ping', () => this.inner.ping());
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  private openBatch(): Batch {
    const indexByKey = new Map<string, number>();
    const turnEnd = new Promise<void>((resolve) => setImmediate(resolve));
    const entries = turnEnd.then(() => {
      if (this.batch?.indexByKey === indexByKey) this.batch = undefined;
      return this.guard('get', () => this.inner.get([...indexByKey.keys()]));
    });
    return { indexByKey, entries };
  }

  private async guard<T>(operation: string, step: () => Promise<T>): Promise<T> {
    // A request neither probes the store nor waits for a probe.
    if (this.isBreakerOpen && operation !== 'ping') throw breakerOpenError();
    const run = (): Promise<T> => this.breaker.execute(step);
    try {
      return await (operations.start.hasSubscribers
        ? operations.tracePromise(run, { operation })
        : run());
    } catch (error) {
      throw error instanceof BrokenCircuitError ? breakerOpenError(error) : error;
    }
  }
}

const breakerOpenError = (cause?: Error): CacheUnavailableError =>
  new CacheUnavailableError('The cache is skipped: its circuit breaker is open', { cause });
