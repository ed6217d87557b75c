/** Where a benchmark ran, in a line, without a date. */
import { cpus, loadavg, totalmem } from 'node:os';
import pg from 'pg';
import { createClient } from 'redis';

/** To be asked before the run, for the load. */
export async function machine(postgresUrl: string, redisUrl?: string): Promise<string> {
  const database = new pg.Client({ connectionString: postgresUrl });
  await database.connect();
  const { rows } = await database.query<{ server_version: string }>('SHOW server_version');
  await database.end();
  const load = loadavg().map((value) => value.toFixed(1));
  return [
    `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `Node ${process.versions.node}`,
    `PostgreSQL ${rows[0]?.server_version}`,
    ...(redisUrl === undefined ? [] : [`Redis ${await redisVersion(redisUrl)}`]),
    `load before the run ${load.join(' ')}`,
  ].join(', ');
}

async function redisVersion(url: string): Promise<string | undefined> {
  const redis = await createClient({ url }).connect();
  const info = await redis.info('server');
  redis.destroy();
  return /redis_version:(\S+)/.exec(info)?.[1];
}
