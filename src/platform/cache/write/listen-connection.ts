/**
 * The connection on which a node hears of rows in `cache_invalidations` (LISTEN), and on which it
 * holds the readers' lock while it may answer from the cache. PostgreSQL releases the lock when the
 * connection ends, so a node that dies counts as a reader no longer.
 */
import { Client } from 'pg';

/** The trigger of the cached tables and {@link DatabaseInvalidations.enqueue} notify on it. */
export const INVALIDATION_CHANNEL = 'holdfast_cache_invalidations';

/** The key of the shared advisory lock that every node holds while it may answer from the cache. */
export const READERS_LOCK = 0x686f6c64;

/**
 * Milliseconds without an answer after which the connection counts as dead, also if TCP does not.
 */
export const MAX_SILENCE_MS = 2_000;

export interface ListenConnectionOptions {
  readonly url: string | undefined;
  readonly onNotification: () => void;
  /** Called once when an open connection has ended, also after {@link ListenConnection.close}. */
  readonly onLost: () => void;
}

export class ListenConnection {
  private client: Client | undefined;
  private isReadersLockHeld = false;

  constructor(private readonly options: ListenConnectionOptions) {}

  get isOpen(): boolean {
    return this.client !== undefined;
  }

  get holdsReadersLock(): boolean {
    return this.isReadersLockHeld;
  }

  /** @throws a driver error */
  async open(): Promise<void> {
    const client = new Client({
      connectionString: this.options.url,
      connectionTimeoutMillis: MAX_SILENCE_MS,
      query_timeout: MAX_SILENCE_MS,
      keepAlive: true,
      application_name: 'holdfast-invalidations',
    });
    client.on('error', () => this.lose(client));
    client.on('end', () => this.lose(client));
    client.on('notification', () => this.options.onNotification());
    try {
      await client.connect();
      await client.query(`LISTEN ${INVALIDATION_CHANNEL}`);
    } catch (error) {
      void client.end().catch(() => undefined);
      throw error;
    }
    this.client = client;
    this.isReadersLockHeld = false;
  }

  /**
   * Checks that the server still answers. On a half-open connection no notification arrives, and
   * this node must not take that for "nothing has changed".
   * @throws a driver error
   */
  async heartbeat(): Promise<void> {
    await this.client?.query('SELECT 1');
  }

  /** @throws a driver error */
  async setReadersLock(isWanted: boolean): Promise<void> {
    if (isWanted === this.isReadersLockHeld) return;
    const lockFunction = isWanted ? 'pg_advisory_lock_shared' : 'pg_advisory_unlock_shared';
    await this.client?.query(`SELECT ${lockFunction}($1)`, [READERS_LOCK]);
    this.isReadersLockHeld = isWanted;
  }

  close(): void {
    if (this.client) this.lose(this.client);
  }

  private lose(client: Client): void {
    if (client !== this.client) return;
    this.client = undefined;
    void client.end().catch(() => undefined);
    this.options.onLost();
  }
}
