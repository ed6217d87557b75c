/**
 * The effect of an order's event on the daily totals, as SQL over the event's `data`. The service
 * adds the effects to the table, and the summary adds those of pending events.
 */

/** The day (UTC) of the event's order. */
export const EVENT_DAY = `((data ->> 'createdAt')::timestamptz AT TIME ZONE 'UTC')::date`;

/**
 * To join with a row that has `data`: adds the order to its new status, and takes it from the
 * previous one. `previous` is null for an order's first event; its effect then has a null status.
 */
export const EVENT_EFFECTS = `
  LATERAL (VALUES
    (data ->> 'status', 1, (data ->> 'total')::numeric),
    (data -> 'previous' ->> 'status', -1, -(data -> 'previous' ->> 'total')::numeric)
  ) AS effect (status, count, total)`;
