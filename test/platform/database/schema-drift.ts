/**
 * Compares a database with the entities: what would have to change in it for the migrations and the
 * entities to say the same.
 */
import { DataSource } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import type { TestDatabase } from '../../support/postgres.js';

/**
 * Foreign keys of the migrations. Entities do not declare them: an entity knows rows of other
 * modules by their ids only (docs/architecture.md).
 */
const FOREIGN_KEYS = [
  'bootstrap_admins_user_id_fkey',
  'credentials_user_id_fkey',
  'known_devices_user_id_fkey',
  'order_events_actor_id_fkey',
  'order_events_order_id_fkey',
  'orders_user_id_fkey',
  'sessions_user_id_fkey',
];

/** Tables that no entity reads. */
const TABLES_WITHOUT_ENTITY = [
  'cache_epoch',
  'cache_invalidations',
  'cache_readers',
  'device_key',
  'failed_logins',
  // Of the previous release.
  'known_devices',
  'migrations',
];

/** @returns one line for each difference; empty when there is none */
export async function findDrift(
  { url }: TestDatabase,
  entities: readonly unknown[],
): Promise<string[]> {
  const options = { ...dataSourceOptions(url, 2), entities: entities as never };
  const dataSource = await new DataSource(options).initialize();
  try {
    return [
      ...(await columnDrift(dataSource)),
      ...(await checkDrift(dataSource)),
      ...(await indexDrift(dataSource)),
      ...(await tableDrift(dataSource)),
      ...(await foreignKeyDrift(dataSource)),
    ];
  } finally {
    await dataSource.destroy();
  }
}

/** The column `name` of the rows. */
async function names(dataSource: DataSource, sql: string): Promise<string[]> {
  const rows = await dataSource.query<{ name: string }[]>(sql);
  return rows.map(({ name }) => name);
}

/** The SQL with which TypeORM would change the database. */
async function columnDrift(dataSource: DataSource): Promise<string[]> {
  const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
  const isForeignKey = (sql: string): boolean =>
    FOREIGN_KEYS.some((name) => sql.endsWith(`DROP CONSTRAINT "${name}"`));
  return upQueries.map(({ query }) => query).filter((sql) => !isForeignKey(sql));
}

/** TypeORM compares checks by name only: PostgreSQL says whether their texts mean the same. */
async function checkDrift(dataSource: DataSource): Promise<string[]> {
  const checks = dataSource.entityMetadatas.flatMap(({ tableName, checks: ofTable }) =>
    ofTable.map(({ name, expression }) => ({ tableName, name: name ?? '', expression })),
  );
  const drift: string[] = [];
  for (const { tableName, name, expression } of checks) {
    const [inDatabase, inEntity] = await definitions(dataSource, tableName, name, expression);
    if (inDatabase !== inEntity) drift.push(`${name}: ${inDatabase} is not ${inEntity}`);
  }
  return drift;
}

/** The check as the database has it, and as PostgreSQL would write the check of the entity. */
async function definitions(
  dataSource: DataSource,
  table: string,
  name: string,
  expression: string,
): Promise<[string | undefined, string | undefined]> {
  const runner = dataSource.createQueryRunner();
  const definition = async (): Promise<string | undefined> => {
    const rows = (await runner.query(
      `SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conname = '${name}'`,
    )) as { definition: string }[];
    return rows[0]?.definition;
  };
  try {
    const inDatabase = await definition();
    await runner.startTransaction();
    await runner.query(`ALTER TABLE ${table} DROP CONSTRAINT IF EXISTS ${name}`);
    await runner.query(`ALTER TABLE ${table} ADD CONSTRAINT ${name} CHECK (${expression})`);
    const inEntity = await definition();
    await runner.rollbackTransaction();
    return [inDatabase, inEntity];
  } finally {
    await runner.release();
  }
}

/** TypeORM ignores indexes that it cannot describe (DESC, partial, of expressions). */
async function indexDrift(dataSource: DataSource): Promise<string[]> {
  const declared = dataSource.entityMetadatas.flatMap(({ indices, uniques }) =>
    [...indices, ...uniques].map(({ name }) => name),
  );
  const tables = dataSource.entityMetadatas.map(({ tableName }) => `'${tableName}'`);
  const existing = await names(
    dataSource,
    `SELECT indexname AS name FROM pg_indexes
      WHERE schemaname = 'public' AND indexname NOT LIKE '%_pkey'
        AND tablename IN (${tables.join(', ')})`,
  );
  return [
    ...declared.filter((name) => !existing.includes(name)).map((name) => `no index ${name}`),
    ...existing
      .filter((name) => !declared.includes(name))
      .map((name) => `index ${name} of no entity`),
  ];
}

async function tableDrift(dataSource: DataSource): Promise<string[]> {
  const declared = dataSource.entityMetadatas.map(({ tableName }) => tableName);
  const existing = await names(
    dataSource,
    `SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'`,
  );
  return existing
    .filter((name) => !declared.includes(name) && !TABLES_WITHOUT_ENTITY.includes(name))
    .map((name) => `table ${name} of no entity`);
}

async function foreignKeyDrift(dataSource: DataSource): Promise<string[]> {
  const existing = await names(
    dataSource,
    `SELECT conname AS name FROM pg_constraint WHERE contype = 'f' ORDER BY 1`,
  );
  const isEqual = existing.join() === FOREIGN_KEYS.join();
  return isEqual ? [] : [`foreign keys: ${existing.join()}`];
}
