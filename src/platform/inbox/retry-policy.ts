/** When a consumer gets a failed event again, and when nobody tries it any more. */

/** Seconds until a failed event is tried again: `min`, doubled with each attempt up to `max`. */
export const RETRY_SECONDS = { min: 1, max: 300 } as const;

/** About an hour after the first attempt, the event becomes a dead letter. */
export const MAX_ATTEMPTS = 20;

/** How long a handler may take, unless its `@OnEvent` says otherwise. */
export const HANDLER_TIMEOUT_MS = 5_000;
