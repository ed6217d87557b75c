/** A clock that a test moves by hand, for services that take their time from CLOCK. */
import type { Provider } from '@nestjs/common';
import { CLOCK } from '../../src/platform/timing/clock.js';

/** Begins at the real time and does not run by itself. */
export class TestClock {
  /** Milliseconds since 1970-01-01T00:00Z. */
  private currentMs = Date.now();

  /** For `startApp`. */
  readonly provider: Provider = { provide: CLOCK, useValue: () => this.currentMs };

  get now(): Date {
    return new Date(this.currentMs);
  }

  advance(ms: number): void {
    this.currentMs += ms;
  }
}
