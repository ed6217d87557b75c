/**
 * The time of day for decisions that a test needs to hold, e.g. whether a session has ended. Code
 * that compares with times of PostgreSQL asks PostgreSQL instead.
 */

/** Milliseconds since 1970-01-01T00:00Z, like `Date.now`. */
export type Clock = () => number;

/**
 * Injection token for a {@link Clock} that replaces `Date.now`. The service does not provide it; a
 * test may.
 */
export const CLOCK = Symbol('Clock');
