/**
 * The one background loop of this service: a step, a pause, the next step. `wake` ends the pause
 * early and is never lost: called during a step, it skips the pause that follows. Steps never
 * overlap. A failed step is retried with growing pauses.
 */

export interface PollingLoopOptions {
  /**
   * One step.
   * @returns milliseconds to pause before the next step; 0 for none
   */
  readonly step: () => Promise<number>;
  /** Called with what a step threw. It must not throw. */
  readonly onError: (error: unknown) => void;
  /**
   * Pause after a failed step: `minMs`, doubled with each further failure up to `maxMs`, half of it
   * at random.
   */
  readonly retry: { readonly minMs: number; readonly maxMs: number };
  /** Random number in [0, 1), for tests that need to hold it. */
  readonly random?: () => number;
}

export class PollingLoop {
  private running: Promise<void> | undefined;
  private isStopping = false;
  private isWoken = false;
  private endPause: () => void = () => undefined;

  constructor(private readonly options: PollingLoopOptions) {}

  get stopping(): boolean {
    return this.isStopping;
  }

  /** Begins with a step at once. A second call does nothing. */
  start(): void {
    this.running ??= this.run();
  }

  /** Ends the current pause, or skips the next one when a step is running. */
  wake(): void {
    this.isWoken = true;
    this.endPause();
  }

  /**
   * Forgets the wakes so far, so that they do not skip the pause after the running step. A step
   * calls it when the rest of its work covers whatever woke it.
   */
  clearWake(): void {
    this.isWoken = false;
  }

  /** Resolves when the running step has ended. No further step begins. */
  async stop(): Promise<void> {
    this.isStopping = true;
    this.endPause();
    await this.running;
  }

  private async run(): Promise<void> {
    let failures = 0;
    while (!this.isStopping) {
      this.isWoken = false;
      let pauseMs: number;
      try {
        pauseMs = await this.options.step();
        failures = 0;
      } catch (error) {
        if (this.isStopping) return;
        this.options.onError(error);
        pauseMs = this.retryPause(failures);
        failures++;
      }
      await this.pause(pauseMs);
    }
  }

  private retryPause(failures: number): number {
    const { retry, random = Math.random } = this.options;
    const fullMs = Math.min(retry.minMs * 2 ** Math.min(failures, 30), retry.maxMs);
    // Nodes that lost a server together must not all come back in the same moment.
    return fullMs * (0.5 + random() / 2);
  }

  private pause(ms: number): Promise<void> {
    if (this.isStopping || this.isWoken || ms <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
