/** Single steps of the migrations, for tests of what happens between them. */
import pg from 'pg';
import { MIGRATIONS } from '#migrations';
import { migrateDatabase, pendingMigrations } from '../../src/platform/database/migrate.js';

const ALL_NAMES = MIGRATIONS.map(({ name }) => name);

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Reverts the migration of this name and all later ones; a name's beginning is enough. */
export async function revertFrom(url: string, name: string): Promise<void> {
  let reverted: string | undefined;
  while (reverted?.startsWith(name) !== true) {
    [reverted] = await migrateDatabase(url, 'down');
    if (reverted === undefined) throw new Error(`No migration begins with ${name}`);
  }
}

/** The names of the migrations that have not run, oldest first. */
export const findPending = (url: string): Promise<string[]> =>
  withClient(url, (client) =>
    pendingMigrations({ query: async (sql) => (await client.query(sql)).rows as unknown }),
  );

/**
 * Applies this migration alone. TypeORM applies whatever is pending: the migrations after this one
 * are recorded as applied meanwhile.
 * @returns the names that were applied
 */
export async function applyOnly(url: string, name: string): Promise<string[]> {
  const later = ALL_NAMES.slice(ALL_NAMES.indexOf(name) + 1);
  return withClient(url, async (client) => {
    await client.query(
      `INSERT INTO migrations (timestamp, name)
       SELECT right(name, 13)::bigint, name FROM unnest($1::text[]) AS name`,
      [later],
    );
    try {
      return await migrateDatabase(url);
    } finally {
      await client.query('DELETE FROM migrations WHERE name = ANY($1)', [later]);
    }
  });
}
