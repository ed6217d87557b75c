/**
 * pg's client with two additions: it measures each query, and it can end connections that wait too
 * long. A PostgreSQL that hangs keeps its sockets open: without this, each caller would wait for
 * the whole query timeout (data-source.ts).
 */
import { tracingChannel } from 'node:diagnostics_channel';
import pg from 'pg';

/** One message for each query, with its SQL command; telemetry/tracing.ts subscribes. */
const queries = tracingChannel<object, object>('holdfast:query');

export interface WatchedClients {
  /** The class for a pool's `Client` option. */
  readonly Client: typeof pg.Client;
  /**
   * Ends each connection that has waited for an answer for `waitedMs` milliseconds or longer. Its
   * caller gets a driver error.
   */
  cutSilent(waitedMs: number): void;
}

/** SQL commands that become a metric label. A closed set: labels must not grow with the input. */
const OPERATION = /^\s*(SELECT|INSERT|UPDATE|DELETE|WITH|START|COMMIT|ROLLBACK|SET)\b/i;

function operationOf(query: unknown): string {
  const text = typeof query === 'string' ? query : (query as { text?: string } | undefined)?.text;
  return OPERATION.exec(text ?? '')?.[1]?.toUpperCase() ?? 'OTHER';
}

/** @param onQuery called after each query, answered or failed, with its duration in seconds */
export function watchClients(
  onQuery: (operation: string, seconds: number) => void,
): WatchedClients {
  /** When each busy client began to wait, in performance.now() milliseconds. */
  const waitingSince = new Map<pg.Client, number>();

  class WatchedClient extends pg.Client {
    // pg declares an overload for each of its call styles; all of them end in this call.
    override query(...args: unknown[]): never {
      const startedAt = performance.now();
      const answer = super.query(...(args as [string])) as unknown;
      // Callbacks and cursors return no promise; this service does not use them.
      if (!(answer instanceof Promise)) return answer as never;
      const operation = operationOf(args[0]);
      waitingSince.set(this, startedAt);
      const finish = (): void => {
        if (waitingSince.get(this) === startedAt) waitingSince.delete(this);
        onQuery(operation, (performance.now() - startedAt) / 1000);
      };
      answer.then(finish, finish);
      if (queries.start.hasSubscribers) {
        queries.tracePromise(() => answer, { operation }).catch(() => undefined);
      }
      return answer as never;
    }
  }

  return {
    Client: WatchedClient as typeof pg.Client,
    cutSilent: (waitedMs) => {
      const now = performance.now();
      for (const [client, since] of waitingSince) {
        if (now - since >= waitedMs) cutConnection(client);
      }
    },
  };
}

/** Ends the connection at once. Client.end() would wait for the answer that does not come. */
function cutConnection(client: pg.Client): void {
  // pg's types leave the connection out.
  const { connection } = client as unknown as {
    connection: { stream: { destroy(error: Error): void } };
  };
  // database-problems.ts recognises "Connection terminated" and answers 503.
  connection.stream.destroy(new Error('Connection terminated: PostgreSQL does not answer'));
}
