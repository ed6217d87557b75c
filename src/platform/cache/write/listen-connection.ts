/**
 * The one connection of this node's membership: on it the node hears of rows in
 * `cache_invalidations` (LISTEN), registers as a reader and applies the rows. So all steps of a
 * pass ask the same PostgreSQL server.
 */
import { Client } from 'pg';
import { CLIENT_KEEPALIVE } from '../../timing/keepalive.js';

/** The trigger of the cached tables and {@link DatabaseInvalidations.enqueue} notify on it. */
export const INVALIDATION_CHANNEL = 'holdfast_cache_invalidations';

/**
 * Milliseconds without an answer after which the connection counts as dead, also if TCP does not.
 */
const MAX_SILENCE_MS = 2_000;
const MAX_LOCK_WAIT_MS = 500;

export interface ListenConnectionOptions {
  readonly url: string | undefined;
  readonly onNotification: () => void;
  /** Called once when an open connection has ended, also after {@link ListenConnection.close}. */
  readonly onLost: () => void;
}

export class ListenConnection {
  private openClient: Client | undefined;

  constructor(private readonly options: ListenConnectionOptions) {}

  /** Undefined while the connection is not open. */
  get client(): Client | undefined {
    return this.openClient;
  }

  /** @throws a driver error */
  async open(): Promise<Client> {
    if (this.openClient) return this.openClient;
    const client = new Client({
      connectionString: this.options.url,
      connectionTimeoutMillis: MAX_SILENCE_MS,
      query_timeout: MAX_SILENCE_MS,
      // A node that hangs in a transaction must not hold up the others.
      statement_timeout: MAX_SILENCE_MS,
      lock_timeout: MAX_LOCK_WAIT_MS,
      idle_in_transaction_session_timeout: MAX_SILENCE_MS,
      ...CLIENT_KEEPALIVE,
      // Not the name that older releases use: by that one they are recognised.
      application_name: 'holdfast-cache',
    });
    client.on('error', () => this.lose(client));
    client.on('end', () => this.lose(client));
    client.on('notification', () => this.options.onNotification());
    try {
      await client.connect();
      // A registration must outlive a crash of PostgreSQL.
      await client.query(`SET synchronous_commit = on; LISTEN ${INVALIDATION_CHANNEL}`);
    } catch (error) {
      void client.end().catch(() => undefined);
      throw error;
    }
    this.openClient = client;
    return client;
  }

  close(): void {
    if (this.openClient) this.lose(this.openClient);
  }

  private lose(client: Client): void {
    if (client !== this.openClient) return;
    this.openClient = undefined;
    void client.end().catch(() => undefined);
    this.options.onLost();
  }
}
