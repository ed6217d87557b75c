/**
 * pg's client, with every query timed, and with a way to cut those whose server has gone silent: a PostgreSQL that hangs keeps
 * its sockets open, so without it every caller would wait for the statement's whole bound.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import pg from 'pg';

/** Tells who subscribes (telemetry/tracing.ts) of each query, by its SQL command. */
const queries = tracingChannel<object, object>('holdfast:query');

export interface WatchedClients {
  /** The class for a pool's `Client` option. */
  readonly Client: typeof pg.Client;
  /** Ends the connections that have waited for an answer for longer than `ms`; their callers get a driver error. */
  cutSilent(ms: number): void;
}

/** The SQL command, in upper case, of a closed set: a label must not grow with what is sent. */
const OPERATION = /^\s*(SELECT|INSERT|UPDATE|DELETE|WITH|START|COMMIT|ROLLBACK|SET)\b/i;

function operationOf(query: unknown): string {
  const text =
    typeof query === 'string' ? query : ((query as { text?: string } | undefined)?.text ?? '');
  return OPERATION.exec(text)?.[1]?.toUpperCase() ?? 'OTHER';
}

/** @param onQuery told of each query that was answered or failed, with its seconds */
export function watchClients(
  onQuery: (operation: string, seconds: number) => void,
): WatchedClients {
  /** Since when each busy client waits, in performance.now() milliseconds. */
  const waiting = new Map<pg.Client, number>();

  class WatchedClient extends pg.Client {
    // pg declares one overload for each of its styles; every one of them ends in the same call.
    override query(...args: unknown[]): never {
      const began = performance.now();
      const answer = super.query(...(args as [string])) as unknown;
      if (!(answer instanceof Promise)) return answer as never;
      waiting.set(this, began);
      const settled = (): void => {
        if (waiting.get(this) === began) waiting.delete(this);
        onQuery(operationOf(args[0]), (performance.now() - began) / 1000);
      };
      answer.then(settled, settled);
      if (queries.start.hasSubscribers)
        queries
          .tracePromise(() => answer, { operation: operationOf(args[0]) })
          .catch(() => undefined);
      return answer as never;
    }
  }

  return {
    Client: WatchedClient as typeof pg.Client,
    cutSilent: (ms) => {
      const now = performance.now();
      for (const [client, since] of waiting) {
        if (now - since < ms) continue;
        const { stream } = (
          client as unknown as { connection: { stream: { destroy(error: Error): void } } }
        ).connection;
        stream.destroy(new Error('Connection terminated: PostgreSQL is silent'));
      }
    },
  };
}
