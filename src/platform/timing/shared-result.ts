/**
 * Work whose result many callers share: however many ask, it is done once at a time. For probes and
 * metrics, which anybody may ask for.
 */
export class SharedResult<T> {
  private latest: { readonly result: Promise<T>; readonly beganAt: number } | undefined;
  private isRunning = false;

  /** @param maxAgeMs since the work began: how long its result is given out, at least to its end */
  constructor(
    private readonly work: () => Promise<T>,
    private readonly maxAgeMs: number,
  ) {}

  /** @throws whatever the work throws, to all who share it */
  get(): Promise<T> {
    const now = performance.now();
    const { latest } = this;
    if (latest && (this.isRunning || now - latest.beganAt < this.maxAgeMs)) return latest.result;
    this.isRunning = true;
    const result = this.work().finally(() => (this.isRunning = false));
    this.latest = { result, beganAt: now };
    return result;
  }
}
