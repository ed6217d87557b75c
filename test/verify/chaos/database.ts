/** The audited PostgreSQL database of one lane, and its faults, inflicted past all links. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import {
  createTestDatabase,
  startTestPostgres,
  type TestPostgres,
} from '../../support/postgres.js';
import { createAudit } from './audit.js';
import type { DatabaseFault } from './faults.js';

/** Whoever holds it, stalls every COMMIT. */
const COMMIT_LOCK = 77;

/**
 * Triggers run in the order of their names: this one after the cache's, whose notice would
 * otherwise end a transaction that has lost its client.
 */
const CREATE_COMMIT_GATE = `
  CREATE FUNCTION zz_commit_gate() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
  BEGIN
    PERFORM pg_advisory_xact_lock_shared(${COMMIT_LOCK});
    RETURN NULL;
  END $$;

  ${['users', 'sessions', 'orders']
    .map(
      (table) => `
  CREATE CONSTRAINT TRIGGER zz_commit_gate AFTER INSERT OR UPDATE OR DELETE ON ${table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION zz_commit_gate();`,
    )
    .join('\n')}`;

const CUT_LISTEN = `
  SELECT pg_terminate_backend(pid)
    FROM pg_stat_activity
   WHERE application_name = 'holdfast-cache' AND datname = current_database()`;

/** Acknowledged commits survive SIGKILL. */
const OWN_SERVER_FLAGS = ['synchronous_commit=on', 'full_page_writes=on'];

export class Database {
  private constructor(
    readonly url: string,
    private connected: Client,
    /** The server, if this lane has its own. */
    private readonly server: TestPostgres | undefined,
    private readonly remove: () => Promise<void>,
  ) {}

  /** @param ownsServer whether the server may be killed */
  static async start(ownsServer: boolean): Promise<Database> {
    if (!ownsServer) {
      const { url, drop } = await createTestDatabase();
      return Database.open(url, undefined, drop);
    }
    const server = await startTestPostgres(OWN_SERVER_FLAGS);
    await migrateDatabase(server.url);
    return Database.open(server.url, server, () => server.stop());
  }

  private static async open(
    url: string,
    server: TestPostgres | undefined,
    remove: () => Promise<void>,
  ): Promise<Database> {
    const database = new Database(url, await connect(url), server, remove);
    await createAudit(database.client);
    await database.client.query(CREATE_COMMIT_GATE);
    return database;
  }

  /** Past the service: writes with it do not fence. Another one after the server was killed. */
  get client(): Client {
    return this.connected;
  }

  async stop(): Promise<void> {
    await this.connected.end().catch(() => undefined);
    await this.remove();
  }

  /** @returns whether the fault happened */
  async disturb({ kind, ms }: DatabaseFault): Promise<boolean> {
    switch (kind) {
      case 'LISTEN cut':
        return isDone(this.client.query(CUT_LISTEN));
      case 'COMMIT stalled':
        return isDone(this.stallCommits(ms));
      case 'PostgreSQL killed':
        return this.killServer(ms);
    }
  }

  private async stallCommits(ms: number): Promise<void> {
    const holder = await connect(this.url);
    try {
      await holder.query(`SELECT pg_advisory_lock(${COMMIT_LOCK})`);
      await sleep(ms);
    } finally {
      await holder.end();
    }
  }

  private async killServer(ms: number): Promise<boolean> {
    if (!this.server) return false;
    await this.server.kill();
    await sleep(ms);
    await this.server.restart();
    this.connected = await connect(this.url);
    return true;
  }
}

async function connect(connectionString: string): Promise<Client> {
  const client = new Client({ connectionString, application_name: 'chaos' });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

/** @returns false when the server was killed meanwhile */
const isDone = (query: Promise<unknown>): Promise<boolean> =>
  query.then(
    () => true,
    () => false,
  );
