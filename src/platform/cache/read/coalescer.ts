/**
 * Single-flight that stays linearizable. A caller may join a load only before the load has begun;
 * otherwise it waits for the next one. So at most one load of a key runs and one is queued.
 *
 * Joining a running load is wrong even without a cache: it returns rows older than the call.
 */

interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

function createDeferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((resolvePromise, rejectPromise) => {
    resolve = resolvePromise;
    reject = rejectPromise;
  });
  return { promise, resolve, reject };
}

export class Coalescer<T> {
  /** Keys whose load is running. */
  private readonly running = new Set<string>();
  /** Keys that wait until their running load has ended. */
  private readonly queued = new Map<string, Deferred<T>>();
  /** Keys of the next load: those asked for in the same turn of the event loop. */
  private batch = new Map<string, Deferred<T>>();

  /**
   * @param load receives distinct keys and returns a result for each, in the same order
   * @param maxBatch keys of one load
   */
  constructor(
    private readonly load: (keys: string[]) => Promise<T[]>,
    private readonly maxBatch = 500,
  ) {}

  get(key: string): Promise<T> {
    return this.running.has(key) ? this.joinQueue(key) : this.joinBatch(key);
  }

  private joinQueue(key: string): Promise<T> {
    const queued = this.queued.get(key) ?? createDeferred<T>();
    this.queued.set(key, queued);
    return queued.promise;
  }

  private joinBatch(key: string): Promise<T> {
    const joined = this.batch.get(key);
    if (joined) return joined.promise;
    const added = createDeferred<T>();
    this.addToBatch(key, added);
    return added.promise;
  }

  private addToBatch(key: string, deferred: Deferred<T>): void {
    this.batch.set(key, deferred);
    const isFirst = this.batch.size === 1;
    const isFull = this.batch.size >= this.maxBatch;
    if (isFirst) queueMicrotask(() => this.startLoad());
    else if (isFull) this.startLoad();
  }

  private startLoad(): void {
    if (this.batch.size === 0) return;
    const { batch } = this;
    this.batch = new Map();
    for (const key of batch.keys()) this.running.add(key);
    void this.runLoad(batch);
  }

  private async runLoad(batch: ReadonlyMap<string, Deferred<T>>): Promise<void> {
    const keys = [...batch.keys()];
    try {
      const results = await this.load(keys);
      keys.forEach((key, index) => {
        this.endLoad(key);
        batch.get(key)?.resolve(results[index] as T);
      });
    } catch (error) {
      for (const [key, deferred] of batch) {
        this.endLoad(key);
        deferred.reject(error);
      }
    }
  }

  private endLoad(key: string): void {
    this.running.delete(key);
    const queued = this.queued.get(key);
    if (!queued) return;
    this.queued.delete(key);
    this.addToBatch(key, queued);
  }
}
