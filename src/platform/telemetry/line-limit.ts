/**
 * Bounds the log lines of each event, so that a flood of requests is not a flood of log lines.
 * Invariant: each line either passes or is counted in a report.
 */

/** Lines of one event that pass in one second. */
export const MAX_LINES_PER_SECOND = 20;
const WINDOW_MS = 1_000;

export class LineLimit {
  private readonly counts = new Map<string, number>();
  private timer: NodeJS.Timeout | undefined;

  /** @param report called at the end of a second for each event that had more lines */
  constructor(private readonly report: (event: string, suppressed: number) => void) {}

  /** Counts a line of `event`. The first line after a pause begins a new second. */
  allows(event: string): boolean {
    this.timer ??= setTimeout(() => this.endWindow(), WINDOW_MS).unref();
    const count = (this.counts.get(event) ?? 0) + 1;
    this.counts.set(event, count);
    return count <= MAX_LINES_PER_SECOND;
  }

  /** Reports what was suppressed so far. Called at the end of each second, and at the shutdown. */
  endWindow(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const [event, count] of this.counts) {
      const suppressed = count - MAX_LINES_PER_SECOND;
      if (suppressed > 0) this.report(event, suppressed);
    }
    this.counts.clear();
  }
}
