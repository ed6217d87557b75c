/**
 * A circuit breaker around a store that is reached over a network: after a few failures in a row nobody waits for it any
 * more, until a single probe (a ping, which no request waits for) gets through. Where the store is skipped, reads go to PostgreSQL
 * and writes are invalidated through the database; so "open" is slower, never wrong.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import {
  BrokenCircuitError,
  CircuitState,
  circuitBreaker,
  ConsecutiveBreaker,
  type CircuitBreakerPolicy,
  handleWhen,
} from 'cockatiel';
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  PartlyUnavailableError,
} from './cache.store.js';

/** Tells who subscribes of each step of the protocol. */
const operations = tracingChannel<object, object>('holdfast:cache');

/** Failures in a row that open it, and milliseconds until the next probe. */
const BREAKER = { failures: 3, halfOpenAfterMs: 500 } as const;

/** Keys of one read: more would keep the server from everybody else. */
const MAX_BATCHED_KEYS = 500;

/** What will be read once this turn of the event loop is over. */
interface Batch {
  /** Of each key among the entries. */
  readonly places: Map<string, number>;
  readonly entries: Promise<CacheEntry[]>;
}

export class GuardedStore implements CacheStore {
  private readonly breaker: CircuitBreakerPolicy;
  private batch: Batch | undefined;

  /** @param onStateChange told of each change of {@link available} that the breaker makes */
  constructor(
    private readonly inner: CacheStore,
    onStateChange: (available: boolean) => void,
  ) {
    // A cache that is there in part is not skipped for what is gone of it.
    const gone = (error: unknown) =>
      error instanceof CacheUnavailableError && !(error instanceof PartlyUnavailableError);
    this.breaker = circuitBreaker(handleWhen(gone), {
      halfOpenAfter: BREAKER.halfOpenAfterMs,
      breaker: new ConsecutiveBreaker(BREAKER.failures),
    });
    this.breaker.onBreak(() => onStateChange(false));
    this.breaker.onReset(() => onStateChange(true));
  }

  get available(): boolean {
    return this.inner.available && !this.isOpen;
  }

  get isOpen(): boolean {
    return this.breaker.state !== CircuitState.Closed;
  }

  /**
   * What is asked for in the same turn of the event loop, by whomever, is read at once, after the last of them has asked: so
   * no answer is older than its question. Not where keys live on several servers: none waits for another's.
   */
  get(keys: readonly string[]): Promise<CacheEntry[]> {
    if (this.inner.sharded) return this.guarded('get', () => this.inner.get(keys));
    const batch = (this.batch ??= this.openBatch());
    const places = keys.map((key) => {
      const place = batch.places.get(key) ?? batch.places.size;
      batch.places.set(key, place);
      return place;
    });
    if (batch.places.size >= MAX_BATCHED_KEYS) this.batch = undefined;
    return batch.entries.then((entries) => places.map((place) => entries[place]!));
  }

  lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    return this.guarded('lease', () => this.inner.lease(keys, token, ms));
  }

  fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    return this.guarded('fill', () => this.inner.fill(token, values));
  }

  replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    return this.guarded('replace', () => this.inner.replace(replacements));
  }

  fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    return this.guarded('fence', () => this.inner.fence(keys, token, ms));
  }

  publish(token: string, publications: readonly CachePublication[]): Promise<void> {
    return this.guarded('publish', () => this.inner.publish(token, publications));
  }

  unfence(keys: readonly string[], token: string): Promise<void> {
    return this.guarded('unfence', () => this.inner.unfence(keys, token));
  }

  /** The one call that goes out as a probe when the breaker is open and its time has come. */
  ping(): Promise<void> {
    return this.guarded('ping', () => this.inner.ping());
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  private openBatch(): Batch {
    const places = new Map<string, number>();
    const entries = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      if (this.batch?.places === places) this.batch = undefined;
      return this.guarded('get', () => this.inner.get([...places.keys()]));
    });
    return { places, entries };
  }

  private async guarded<T>(operation: string, step: () => Promise<T>): Promise<T> {
    // Neither a probe nor a wait for one: while it is not known that the cache answers, no request waits for it.
    if (this.isOpen && operation !== 'ping') throw new CacheUnavailableError('the breaker is open');
    const run = (): Promise<T> => this.breaker.execute(step);
    try {
      return await (operations.start.hasSubscribers
        ? operations.tracePromise(run, { operation })
        : run());
    } catch (error) {
      if (error instanceof BrokenCircuitError)
        throw new CacheUnavailableError('the breaker is open', { cause: error });
      throw error;
    }
  }
}
