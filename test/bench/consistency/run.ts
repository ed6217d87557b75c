/**
 * `npm run bench:consistency`: how often each way of caching a row shows an old one. Two nodes, real PostgreSQL and Redis behind
 * jittery connections, readers and writers on the same few rows; one peer after the other, each on a fresh database and a flushed
 * Redis. The verdict is by what the nodes logged, never by what a cache says of itself.
 *
 * npm run bench:consistency -- [--seconds 10] [--rounds 10] [--seed 1] [--only holdfast,by-hand]
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { format, resolveConfig } from 'prettier';
import { createClient } from 'redis';
import { v7 as uuidv7 } from 'uuid';
import { migrateDatabase } from '../../../src/database/migrate.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { startRedis } from '../../support/redis.js';
import { machine } from '../machine.js';
import { startDelayProxy } from './delay-proxy.js';
import type { Command, Log } from './node.js';
import { type Peer, PEERS, type Servers, TTL_MS } from './peers.js';
import { randomFrom } from './random.js';
import { markdownTable, perMillion, type Result, resultOf, svgChart } from './report.js';

const [NODES, READERS, WRITERS, ROWS, JITTER_MS] = [2, 40, 4, 20, 5];
const WARM_UP_MS = 1_000;
/** From a round's last write to the look at what is left: far more than the jitter, far less than the TTL. */
const SETTLE_MS = 500;
const FOLDER = 'docs/bench';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string', default: Object.keys(PEERS).join() },
  },
});
const [seconds, rounds, seed] = [values.seconds, values.rounds, values.seed].map(Number) as [
  number,
  number,
  number,
];
const chosen = values.only.split(',');
if (
  !(seconds > 0) ||
  !(rounds >= 1) ||
  ![rounds, seed].every(Number.isSafeInteger) ||
  chosen.some((name) => !(name in PEERS))
) {
  console.error(
    `--seconds, --rounds and --seed are numbers; --only has names out of ${Object.keys(PEERS).join()}`,
  );
  process.exit(2);
}

/** Sends a node one command and waits for its one answer. */
async function ask<T>(node: ChildProcess, command: Command): Promise<T> {
  const failed = new AbortController();
  const ended = once(node, 'exit', { signal: failed.signal }).then(([code]) => {
    throw new Error(`a node ended with ${String(code)}`);
  });
  node.send(command);
  try {
    const answered = once(node, 'message') as Promise<[{ result: T; error?: string }]>;
    const [{ result, error }] = (await Promise.race([answered, ended])) as [
      { result: T; error?: string },
    ];
    if (error !== undefined) throw new Error(error);
    return result;
  } finally {
    failed.abort();
    await ended.catch(() => undefined);
  }
}

async function insertRows(database: pg.Client): Promise<string[]> {
  const user = uuidv7();
  const ids = Array.from({ length: ROWS }, () => uuidv7());
  const items = JSON.stringify([
    { sku: 'rope-12', name: 'Rope, 12 mm', quantity: 3, unitPrice: 1450 },
  ]);
  await database.query(
    `INSERT INTO users (id, username, email) VALUES ($1, 'reader', 'reader@example.org')`,
    [user],
  );
  await database.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total) SELECT id, $2, 'placed', 'EUR', $3, 4350 FROM unnest($1::uuid[]) id`,
    [ids, user, items],
  );
  return ids;
}

/** One peer, from its first connection to its last: on the rows of a database of its own. */
async function measure(name: string, peer: Peer, servers: Servers): Promise<Result> {
  const database = await createTestDatabase();
  const direct = new pg.Client({ connectionString: database.url });
  await direct.connect();
  const ids = await insertRows(direct);
  const behindProxy = new URL(database.url);
  behindProxy.port = new URL(servers.postgres).port;
  const program = fileURLToPath(new URL('./node.js', import.meta.url));
  const nodes = Array.from({ length: NODES }, () => fork(program, { serialization: 'advanced' }));
  const askAll = <T>(command: (index: number) => Command): Promise<T[]> =>
    Promise.all(nodes.map((node, index) => ask<T>(node, command(index))));
  const run = (ms: number, writers: number, salt: number) => (index: number) => ({
    do: 'run' as const,
    ids,
    ms,
    seed: seed + 10_000 * salt + 1_000 * index,
    readers: READERS / NODES,
    writers: writers / NODES,
  });
  try {
    // One after the other, lest their starts on a busy machine run into the connection timeout.
    const open: Command = {
      do: 'open',
      peer: name,
      servers: { ...servers, postgres: behindProxy.href },
    };
    for (const node of nodes) await ask(node, open);
    await askAll(run(WARM_UP_MS, 0, 0));
    const logs: Log[] = [];
    let keysLeftStale = 0;
    for (let round = 1; round <= rounds; round++) {
      logs.push(...(await askAll<Log>(run((seconds * 1_000) / rounds, WRITERS, round))));
      await sleep(SETTLE_MS);
      const seen = await askAll<number[]>(() => ({ do: 'look', ids }));
      const { rows } = await direct.query<{ id: string; version: string }>(
        'SELECT id, version FROM orders',
      );
      const truth = new Map(rows.map(({ id, version }) => [id, Number(version)]));
      const isOld = (version: number, index: number) =>
        version < (truth.get(ids[index] as string) as number);
      for (const versions of seen) keysLeftStale += versions.filter(isOld).length;
    }
    return resultOf(peer, logs, seconds, { keysLeftStale, keys: ROWS * NODES * rounds });
  } finally {
    await Promise.all(
      nodes.map(async (node) => {
        if (node.exitCode !== null || node.signalCode !== null) return;
        const exit = once(node, 'exit');
        node.kill('SIGKILL');
        await exit;
      }),
    );
    await direct.end();
    await database.drop();
  }
}

const openRedis = (url: string) => createClient({ url }).connect();

async function onRedis<T>(
  url: string,
  work: (client: Awaited<ReturnType<typeof openRedis>>) => Promise<T>,
): Promise<T> {
  const client = await openRedis(url);
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

const shape = `${NODES} nodes, ${READERS} readers and ${WRITERS} writers over ${ROWS} rows`;

function reportOf(results: readonly Result[], where: string): string {
  const failures = results.filter((result) => result.failures.length > 0);
  return `# How often a cached row is stale

\`npm run bench:consistency -- --seconds ${seconds} --rounds ${rounds} --seed ${seed}\`

${where}.

${markdownTable(results)}

${failures.map(({ title, failures: all }) => `${title}: ${all.length} calls failed and are not counted (${all[0]}).\n\n`).join('')}![Stale reads per million reads, by peer](consistency.svg)

## What was measured

${shape}, every connection to PostgreSQL and to Redis through a proxy that holds each packet back for 0 to ${JITTER_MS} ms. A node is a process. A reader reads one random row after the other, 1 ms apart; a writer locks a random row, updates it, commits, invalidates, waits for that, and counts the write as acknowledged. Every peer has the same rows, the same transaction, the same pool, the same TTL (${TTL_MS / 60_000} minutes) and ${seconds} s, on a fresh database and a flushed Redis.

- **stale read**: a read that began after a write of its row had been acknowledged, and returned an older version. Both moments are taken by the clock that all processes of a machine share (CLOCK_MONOTONIC).
- **longest**: the longest time after an acknowledgement at which a read began that still missed it. What ended it was the row's next write, which here is never far.
- **keys left stale**: the writers stop ${rounds} times, for ${SETTLE_MS} ms, and then every row is read on every node; these showed an old version, and without another write would until their TTL.
- **hit ratio**: 1 − rows that PostgreSQL gave to readers ÷ reads.

## How each peer was set up

${results.map(({ title, settings }) => `- **${title}**: ${settings}.`).join('\n')}
`;
}

const postgres = await startSharedPostgres(migrateDatabase);
process.env.TEST_POSTGRES_URL = postgres.url;
const redis = await startRedis();
const random = randomFrom(seed);
const delay = (): number => random() * JITTER_MS;
const [postgresProxy, redisProxy] = await Promise.all([
  startDelayProxy({ host: '127.0.0.1', port: Number(new URL(postgres.url).port) }, delay),
  startDelayProxy({ host: '127.0.0.1', port: redis.port }, delay),
]);
try {
  const where = await machine(postgres.url, redis.url);
  console.log(`${where}\n`);
  const results: Result[] = [];
  for (const name of chosen) {
    await onRedis(redis.url, (client) => client.flushAll());
    const servers: Servers = {
      postgres: `postgres://127.0.0.1:${postgresProxy.port}`,
      redis: {
        host: '127.0.0.1',
        port: redisProxy.port,
        url: `redis://127.0.0.1:${redisProxy.port}`,
      },
    };
    const result = await measure(name, PEERS[name] as Peer, servers);
    results.push(result);
    const { title, stale, reads, keysLeftStale, failures } = result;
    console.error(
      `${title}: ${stale} of ${reads} reads stale, ${Math.round(perMillion(result))} per million, ${keysLeftStale} keys left stale${failures.length > 0 ? `, ${failures.length} calls failed: ${failures[0]}` : ''}`,
    );
  }
  console.log(`\n${markdownTable(results)}\n`);
  if (values.only === Object.keys(PEERS).join()) {
    const caches = results.filter(({ title }) => title !== PEERS.none?.title);
    const page = `${FOLDER}/consistency.md`;
    await mkdir(FOLDER, { recursive: true });
    await writeFile(
      page,
      await format(reportOf(results, where), { ...(await resolveConfig(page)), filepath: page }),
    );
    await writeFile(`${FOLDER}/consistency.svg`, svgChart(caches, `${shape}; logarithmic axis`));
  }
} finally {
  await Promise.all([postgresProxy.close(), redisProxy.close()]);
  await redis.stop();
  await postgres.stop();
}
