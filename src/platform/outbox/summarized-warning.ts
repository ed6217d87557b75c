/** A warning for what may happen to every event: at most one line per interval, with the count. */
import type { Logger } from '@nestjs/common';

const LOG_INTERVAL_MS = 60_000;

export class SummarizedWarning {
  private loggedAt = -Infinity;
  private count = 0;

  constructor(private readonly logger: Pick<Logger, 'warn'>) {}

  /** Logs `line`, or only counts it if the last line is less than a minute old. */
  add(line: string): void {
    this.count++;
    const now = performance.now();
    if (now - this.loggedAt < LOG_INTERVAL_MS) return;
    const summary = this.count > 1 ? ` (${this.count} times since the last such line)` : '';
    this.logger.warn(line + summary);
    this.loggedAt = now;
    this.count = 0;
  }
}
