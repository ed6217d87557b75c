/**
 * Single-flight that stays linearizable: a caller may join a load only while that load has not begun, else it waits for the
 * next one. (Joining a load that is under way would hand out rows older than the caller's own beginning: the ordinary
 * single-flight is wrong even without a cache.) So for each key at most one load runs and one waits, whatever the number of
 * callers; the keys of callers in one turn of the event loop are loaded together.
 */
interface Waiting<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

const waiting = <T>(): Waiting<T> => {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => ((resolve = yes), (reject = no)));
  return { promise, resolve, reject };
};

export class Coalescer<T> {
  /** Keys whose load runs now. */
  private readonly running = new Set<string>();
  /** Keys that wait for their running load to end. */
  private readonly queued = new Map<string, Waiting<T>>();
  /** Keys that go out in the next batch. */
  private batch = new Map<string, Waiting<T>>();

  /** @param load gets each key once and answers for every one of them, in order */
  constructor(
    private readonly load: (keys: string[]) => Promise<T[]>,
    private readonly maxBatch = 500,
  ) {}

  get(key: string): Promise<T> {
    const place = this.running.has(key) ? this.queued : this.batch;
    let entry = place.get(key);
    if (!entry) {
      entry = waiting<T>();
      place.set(key, entry);
      if (place === this.batch) this.schedule();
    }
    return entry.promise;
  }

  private schedule(): void {
    if (this.batch.size === 1) queueMicrotask(() => this.dispatch());
    else if (this.batch.size >= this.maxBatch) this.dispatch();
  }

  private dispatch(): void {
    if (this.batch.size === 0) return;
    const batch = this.batch;
    this.batch = new Map();
    const keys = [...batch.keys()];
    for (const key of keys) this.running.add(key);
    void this.load(keys).then(
      (values) =>
        keys.forEach((key, index) =>
          this.settle(key, () => batch.get(key)?.resolve(values[index] as T)),
        ),
      (reason: unknown) =>
        keys.forEach((key) => this.settle(key, () => batch.get(key)?.reject(reason))),
    );
  }

  private settle(key: string, answer: () => void): void {
    this.running.delete(key);
    const next = this.queued.get(key);
    if (next) {
      this.queued.delete(key);
      this.batch.set(key, next);
      this.schedule();
    }
    answer();
  }
}
