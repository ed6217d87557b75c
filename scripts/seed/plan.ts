/** What a run of the seed makes, and when it happens. */

export interface Plan {
  readonly users: number;
  readonly orders: number;
  readonly seed: number;
  /** Milliseconds since 1970. Everything happened before. */
  readonly until: number;
}

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;

/** Orders are placed in the days before `until`. Their users registered in twice as many days. */
export const ORDER_DAYS = 180;
export const USER_DAYS = 2 * ORDER_DAYS;
