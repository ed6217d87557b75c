/**
 * How often each way of caching a row shows an old one. Two nodes, real PostgreSQL and Redis behind
 * connections with jitter, readers and writers on the same few rows; one peer after the other, each
 * on a new database and a flushed Redis. The logs of the nodes decide (staleness.ts), not what a
 * cache reports about itself.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { createClient } from 'redis';
import { v7 as uuidv7 } from 'uuid';
import { parseArguments, parseWholeNumber } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { killProcess } from '../../support/child-process.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { Random } from '../../support/random.js';
import { startRedis } from '../../support/redis.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { describeMachine } from '../machine.js';
import { writeImage, writePage } from '../page.js';
import { type Peer, PEERS, type Servers, TTL_MS } from './peers.js';
import { type Answer, type Command, type Log, READER_REST_MS } from './protocol.js';
import { resultTable, svgChart } from './report.js';
import { type PeerResult, staleReadsPerMillion, summarizePeer } from './staleness.js';

const CALL = 'npm run bench -- consistency';
export const USAGE = `${CALL} [--seconds 10] [--rounds 10] [--seed 1] [--only holdfast]
--only takes some of: ${Object.keys(PEERS).join(', ')}. The page is written when all of them ran.`;

const NODES = 2;
const READERS = 40;
const WRITERS = 4;
const ROWS = 20;
const MAX_JITTER_MS = 5;
const WARM_UP_MS = 1_000;
/** From a round's last write to the reading of what is left: far more than the jitter. */
const SETTLE_MS = 500;
const SHAPE = `${NODES} nodes, ${READERS} readers and ${WRITERS} writers over ${ROWS} rows`;

const NODE_PROGRAM = fileURLToPath(new URL('./node.js', import.meta.url));

const INSERT_USER = `
  INSERT INTO users (id, username, email) VALUES ($1, 'reader', 'reader@example.org')`;
const INSERT_ORDERS = `
  INSERT INTO orders (id, user_id, status, currency, items, total)
  SELECT id, $2, 'placed', 'EUR', $3, 4350
    FROM unnest($1::uuid[]) AS id`;
const ITEMS = [{ sku: 'rope-12', name: 'Rope, 12 mm', quantity: 3, unitPrice: 1450 }];

interface Options {
  readonly seconds: number;
  readonly rounds: number;
  readonly seed: number;
  readonly peerNames: readonly string[];
}

export async function run(argv: string[]): Promise<number> {
  const options = parseOptions(argv);
  const postgres = await startSharedPostgres(migrateDatabase);
  process.env.TEST_POSTGRES_URL = postgres.url;
  const redis = await startRedis();
  const random = new Random(options.seed);
  const postgresPort = Number(new URL(postgres.url).port);
  const postgresProxy = await TcpProxy.start(postgresPort, random.fork('PostgreSQL'));
  const redisProxy = await TcpProxy.start(redis.port, random.fork('Redis'));
  postgresProxy.setDelay(0, MAX_JITTER_MS);
  redisProxy.setDelay(0, MAX_JITTER_MS);
  const redisUrl = `redis://127.0.0.1:${redisProxy.port}`;
  const servers: Servers = {
    postgres: `postgres://127.0.0.1:${postgresProxy.port}`,
    redis: { host: '127.0.0.1', port: redisProxy.port, url: redisUrl },
  };
  try {
    const where = await describeMachine(postgres.url, redis.url);
    console.log(`${where}\n`);
    const results: PeerResult[] = [];
    for (const name of options.peerNames) {
      await flushRedis(redis.url);
      const result = await measurePeer(name, servers, options);
      results.push(result);
      console.error(summaryOf(result));
    }
    await report(results, options, where);
  } finally {
    postgresProxy.close();
    redisProxy.close();
    await redis.stop();
    await postgres.stop();
  }
  return 0;
}

function parseOptions(argv: string[]): Options {
  const { options } = parseArguments(argv, {
    usage: USAGE,
    options: ['seconds', 'rounds', 'seed', 'only'],
  });
  const wholeNumber = (name: 'seconds' | 'rounds' | 'seed', byDefault: number): number =>
    parseWholeNumber(name, options[name], { min: 1, max: 1_000_000, byDefault });
  const peerNames = options.only?.split(',') ?? Object.keys(PEERS);
  const unknown = peerNames.filter((name) => !Object.hasOwn(PEERS, name));
  if (unknown.length > 0) {
    const known = Object.keys(PEERS).join(', ');
    throw new CommandError(`--only does not know ${unknown.join(', ')}: choose from ${known}`, 2);
  }
  return {
    seconds: wholeNumber('seconds', 10),
    rounds: wholeNumber('rounds', 10),
    seed: wholeNumber('seed', 1),
    peerNames,
  };
}

async function flushRedis(url: string): Promise<void> {
  const client = await createClient({ url }).connect();
  try {
    await client.flushAll();
  } finally {
    client.destroy();
  }
}

/** One peer, from its first connection to its last, on a database of its own. */
async function measurePeer(name: string, servers: Servers, options: Options): Promise<PeerResult> {
  const database = await createTestDatabase();
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const ids = await insertRows(client);
  const proxiedUrl = new URL(database.url);
  proxiedUrl.port = new URL(servers.postgres).port;
  const nodes = Array.from({ length: NODES }, () =>
    fork(NODE_PROGRAM, { serialization: 'advanced' }),
  );
  try {
    // One after the other: on a busy machine simultaneous starts exceed the connection timeout.
    for (const node of nodes) {
      const proxied = { ...servers, postgres: proxiedUrl.href };
      await ask(node, { do: 'open', peer: name, servers: proxied });
    }
    return await measureRounds(PEERS[name] as Peer, nodes, client, ids, options);
  } finally {
    await Promise.all(nodes.map(killProcess));
    await client.end();
    await database.drop();
  }
}

async function insertRows(client: pg.Client): Promise<string[]> {
  const userId = uuidv7();
  const ids = Array.from({ length: ROWS }, () => uuidv7());
  await client.query(INSERT_USER, [userId]);
  await client.query(INSERT_ORDERS, [ids, userId, JSON.stringify(ITEMS)]);
  return ids;
}

async function measureRounds(
  peer: Peer,
  nodes: readonly ChildProcess[],
  client: pg.Client,
  ids: readonly string[],
  { seconds, rounds, seed }: Options,
): Promise<PeerResult> {
  const runRound = (ms: number, writers: number, round: number): Promise<Log[]> => {
    const answers = nodes.map((node, index) =>
      ask<Log>(node, {
        do: 'run',
        ids,
        ms,
        seed: seed + 10_000 * round + 1_000 * index,
        readers: READERS / NODES,
        writers: writers / NODES,
      }),
    );
    return Promise.all(answers);
  };
  await runRound(WARM_UP_MS, 0, 0);
  const logs: Log[] = [];
  let keysLeftStale = 0;
  for (let round = 1; round <= rounds; round++) {
    logs.push(...(await runRound((seconds * 1_000) / rounds, WRITERS, round)));
    await sleep(SETTLE_MS);
    keysLeftStale += await countStaleKeys(nodes, client, ids);
  }
  return summarizePeer(peer, logs, seconds, { keysLeftStale, keys: ROWS * NODES * rounds });
}

/** Compares what every node reads with the database. */
async function countStaleKeys(
  nodes: readonly ChildProcess[],
  client: pg.Client,
  ids: readonly string[],
): Promise<number> {
  const answers = nodes.map((node) => ask<number[]>(node, { do: 'readAll', ids }));
  const versionLists = await Promise.all(answers);
  const { rows } = await client.query<{ id: string; version: string }>(
    'SELECT id, version FROM orders',
  );
  const current = new Map(rows.map(({ id, version }) => [id, Number(version)]));
  const isStale = (version: number, index: number): boolean =>
    version < (current.get(ids[index] as string) as number);
  return versionLists.reduce((count, versions) => count + versions.filter(isStale).length, 0);
}

/**
 * Sends a node one command and waits for its answer.
 * @throws Error when the node reports one or ends
 */
async function ask<T>(node: ChildProcess, command: Command): Promise<T> {
  const waiting = new AbortController();
  const { signal } = waiting;
  const answered = once(node, 'message', { signal }) as Promise<[Answer]>;
  const ended = once(node, 'exit', { signal }).then(([code]) => {
    throw new Error(`A node ended with ${String(code)}`);
  });
  node.send(command);
  try {
    const [answer] = await Promise.race([answered, ended]);
    if ('error' in answer) throw new Error(answer.error);
    return answer.result as T;
  } finally {
    waiting.abort();
    await Promise.allSettled([answered, ended]);
  }
}

function summaryOf(result: PeerResult): string {
  const { title, staleReads, reads, keysLeftStale, failures } = result;
  const perMillion = Math.round(staleReadsPerMillion(result));
  const failed = failures.length > 0 ? `, ${failures.length} calls failed: ${failures[0]}` : '';
  const stale = `${staleReads} of ${reads} reads stale (${perMillion} per million)`;
  return `${title}: ${stale}, ${keysLeftStale} keys left stale${failed}`;
}

async function report(
  results: readonly PeerResult[],
  options: Options,
  where: string,
): Promise<void> {
  const hasAllPeers = results.length === Object.keys(PEERS).length;
  if (!hasAllPeers) {
    console.log(`\n${resultTable(results)}\n`);
    return;
  }
  await writePage('consistency', pageOf(results, options, where));
  const caches = results.filter(({ title }) => title !== PEERS.none?.title);
  await writeImage('consistency.svg', svgChart(caches, `${SHAPE}; logarithmic axis`));
}

function pageOf(
  results: readonly PeerResult[],
  { seconds, rounds, seed }: Options,
  where: string,
): string {
  const failures = results
    .filter((result) => result.failures.length > 0)
    .map(({ title, failures: all }) => `${title}: ${all.length} calls failed (${all[0]}). `);
  const notCounted = failures.length > 0 ? `${failures.join('')}They are not counted.\n\n` : '';
  return `# How often a cached row is stale

\`${CALL} --seconds ${seconds} --rounds ${rounds} --seed ${seed}\`

${where}.

${resultTable(results)}

${notCounted}![Stale reads per million reads, by cache](consistency.svg)

## What was measured

${SHAPE}. A node is a process. Every connection to PostgreSQL and to Redis passes a proxy that
delays each packet by 0 to ${MAX_JITTER_MS} ms.

- A reader reads one random row after the other, ${READER_REST_MS} ms apart.
- A writer locks a random row, updates it, commits, invalidates and waits for the invalidation. Then
  the write counts as acknowledged.
- Every cache has the same rows, the same transaction, the same pool, the same TTL
  (${TTL_MS / 60_000} minutes) and ${seconds} s, on a new database and a flushed Redis.

The columns:

- **stale reads**: reads that began after a write of their row had been acknowledged, and returned
  an older version. All processes take both times from one clock (CLOCK_MONOTONIC).
- **longest**: the longest time from an acknowledgement to the beginning of a read that still missed
  it. It ended with the row's next write, which is never far here.
- **keys left stale**: the writers stop ${rounds} times for ${SETTLE_MS} ms. Then every node reads
  every row. These rows showed an old version, and would until their TTL without another write.
- **hit ratio**: 1 − rows that PostgreSQL returned to readers ÷ reads.

## How each cache was set up

${results.map(({ title, settings }) => `- **${title}**: ${settings}.`).join('\n')}
`;
}
