/** Describes where a benchmark ran. */
import { cpus, loadavg, totalmem } from 'node:os';
import pg from 'pg';
import { createClient } from 'redis';

const loadAverages = (): string =>
  loadavg()
    .map((load) => load.toFixed(1))
    .join(' ');

/** Processors, memory and Node, e.g. `2 × AMD EPYC, 16 GiB, Node 24.1.0`. */
export function describeHardware(): string {
  const processors = cpus();
  return [
    `${processors.length} × ${processors[0]?.model.trim()}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `Node ${process.versions.node}`,
  ].join(', ');
}

/** The hardware, the servers' versions and the load at this moment: call it before the run. */
export async function describeMachine(postgresUrl?: string, redisUrl?: string): Promise<string> {
  const parts = [describeHardware()];
  if (postgresUrl !== undefined) parts.push(`PostgreSQL ${await postgresVersion(postgresUrl)}`);
  if (redisUrl !== undefined) parts.push(`Redis ${await redisVersion(redisUrl)}`);
  parts.push(`load before the run ${loadAverages()}`);
  return parts.join(', ');
}

async function postgresVersion(url: string): Promise<string | undefined> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
    return rows[0]?.server_version;
  } finally {
    await client.end();
  }
}

async function redisVersion(url: string): Promise<string | undefined> {
  const client = await createClient({ url }).connect();
  try {
    return /redis_version:(\S+)/.exec(await client.info('server'))?.[1];
  } finally {
    client.destroy();
  }
}
