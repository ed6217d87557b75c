/**
 * What near caches save a reader and cost a writer: three nodes that share one Redis, with near
 * caches and without, beside a bare Fastify route that sends the same JSON. One node of each three
 * gets the load; all share the machine with their client.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import autocannon from 'autocannon';
import { NEAR_LEASE_MS } from '../../../src/platform/cache/cache-timings.js';
import { startBuiltService } from '../../support/built-service.js';
import { type RunningProgram, startProgram } from '../../support/child-process.js';
import { requestBody, sendRequest } from '../../support/http-client.js';
import { median, percentile } from '../../support/percentile.js';
import { startTestPostgres } from '../../support/postgres.js';
import { callOf, parseNumbers, usageOf } from '../../support/program-table.js';
import { startRedis } from '../../support/redis.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { alternate } from '../rounds.js';

const DEFAULTS = { seconds: 4, rounds: 5, connections: 64, writers: 8 } as const;
type Options = Record<keyof typeof DEFAULTS, number>;

const CALL = 'npm run bench -- near';
export const USAGE = `${usageOf(CALL, DEFAULTS)}
Needs the build: npm run build.`;

const NODES = 3;
const ALL_ENTITIES = 'session,user,order';
const USER = {
  username: 'bench',
  email: 'bench@example.com',
  password: 'a bench made of old oak',
} as const;
const ORDER = {
  currency: 'EUR',
  items: [{ sku: 'SKU-1', name: 'Thing', quantity: 1, unitPrice: 1_000 }],
} as const;

const BARE_SERVER = `
  import Fastify from 'fastify';
  const app = Fastify();
  const body = JSON.parse(process.env.BODY);
  app.get('/order', () => body);
  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log('ready ' + app.addresses()[0].port);
`;

/** Three nodes of one kind, and the orders of their user. */
interface Site {
  readonly nodes: readonly (RunningProgram & { readonly url: string })[];
  readonly token: string;
  /** One for each writer. */
  readonly orders: { readonly id: string; version: number }[];
}

interface Load {
  /** Requests a second. */
  readonly rate: number;
  /** Milliseconds of the server's process for each request. */
  readonly cpuMs: number;
}

/** What happens beside the programs ends with them. */
type Cleanup = () => Promise<unknown>;

export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, DEFAULTS);
  const where = await describeMachine();
  const cleanups: Cleanup[] = [];
  try {
    const without = await startSite('', options, cleanups);
    const near = await startSite(ALL_ENTITIES, options, cleanups);
    const bare = await startBare(near, cleanups);
    const reads = await alternate(options.rounds, {
      'bare Fastify route, same JSON': () => read(bare, bare.url, {}, options),
      'order read, cache in Redis': () => readOrder(without, options),
      'order read, near caches': () => readOrder(near, options),
    });
    const writes = await alternate(options.rounds, {
      'change of an order': () => writeFor(without, options),
      'change of an order, near caches': () => writeFor(near, options),
      'the same while a node is stopped': () => whileStopped(near, () => writeFor(near, options)),
    });
    await writePage('near', pageOf(reads, writes, options, where));
  } finally {
    for (const cleanup of cleanups.toReversed()) await cleanup();
  }
  return 0;
}

async function startSite(near: string, options: Options, cleanups: Cleanup[]): Promise<Site> {
  const postgres = await startTestPostgres();
  cleanups.push(() => postgres.stop());
  const redis = await startRedis();
  cleanups.push(() => redis.stop());
  const nodes: Site['nodes'][number][] = [];
  while (nodes.length < NODES) {
    const node = await startBuiltService({
      DATABASE_URL: postgres.url,
      REDIS_URL: redis.url,
      CACHE_NEAR: near,
      RATE_LIMIT_PER_MINUTE: '0',
    });
    nodes.push(node);
    cleanups.push(() => node.stop());
  }
  const url = nodes[0]?.url as string;
  await requestBody(`${url}/v1/users`, 'POST', { body: USER });
  const { username, password } = USER;
  const login = { body: { username, password } };
  const { token } = (await requestBody(`${url}/v1/sessions`, 'POST', login)) as { token: string };
  const orders: Site['orders'] = [];
  while (orders.length < options.writers) {
    const placing = { token, body: ORDER, headers: { 'Idempotency-Key': randomUUID() } };
    const { id } = (await requestBody(`${url}/v1/orders`, 'POST', placing)) as { id: string };
    orders.push({ id, version: 1 });
  }
  return { nodes, token, orders };
}

async function startBare(
  { nodes, token, orders }: Site,
  cleanups: Cleanup[],
): Promise<RunningProgram & { readonly url: string }> {
  const path = `/v1/orders/${orders[0]?.id as string}`;
  const order = await requestBody(`${nodes[0]?.url as string}${path}`, 'GET', { token });
  const bare = await startProgram({
    command: process.execPath,
    args: ['--input-type=module', '-e', BARE_SERVER],
    env: { BODY: JSON.stringify(order) },
    readyPattern: /ready (\d+)/,
  });
  cleanups.push(() => bare.stop());
  return { ...bare, url: `http://127.0.0.1:${bare.ready[1]}/order` };
}

const readOrder = ({ nodes, token, orders }: Site, options: Options): Promise<Load> =>
  read(
    nodes[0] as RunningProgram,
    `${nodes[0]?.url as string}/v1/orders/${orders[0]?.id as string}`,
    { authorization: `Bearer ${token}` },
    options,
  );

/** Milliseconds that a process has used the processor (proc(5): utime and stime, 10 ms each). */
async function processorTimeOf({ child }: RunningProgram): Promise<number> {
  const text = await readFile(`/proc/${child.pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

/**
 * @throws Error when a request was not answered with 2xx
 */
async function read(
  server: RunningProgram,
  url: string,
  headers: Record<string, string>,
  { connections, seconds: duration }: Options,
): Promise<Load> {
  const before = await processorTimeOf(server);
  const result = await autocannon({ url, connections, duration, headers });
  if (result.non2xx > 0 || result.errors > 0) {
    throw new Error(`${url}: ${result.non2xx} responses that are not 2xx, ${result.errors} errors`);
  }
  const cpuMs = ((await processorTimeOf(server)) - before) / result.requests.total;
  return { rate: result.requests.average, cpuMs };
}

/** Each writer changes its own order, one change after the other. @returns milliseconds of each */
async function writeFor({ nodes, token, orders }: Site, { seconds }: Options): Promise<number[]> {
  const deadline = performance.now() + seconds * 1_000;
  const times: number[] = [];
  const change = async (order: Site['orders'][number]): Promise<void> => {
    while (performance.now() < deadline) {
      const began = performance.now();
      const url = `${nodes[0]?.url as string}/v1/orders/${order.id}`;
      const reply = await sendRequest(url, 'PATCH', {
        token,
        body: { note: `note ${order.version}` },
        headers: { 'If-Match': `"${order.version}"` },
      });
      if (reply.status !== 200) throw new Error(`A change was answered ${reply.status}`);
      times.push(performance.now() - began);
      order.version++;
    }
  };
  await Promise.all(orders.map(change));
  return times;
}

async function whileStopped<T>({ nodes }: Site, work: () => Promise<T>): Promise<T> {
  const { child } = nodes[NODES - 1] as RunningProgram;
  // It is in the list, and has a lease.
  await sleep(2_000);
  child.kill('SIGSTOP');
  try {
    return await work();
  } finally {
    child.kill('SIGCONT');
  }
}

const READ_COLUMNS = [
  'three nodes, one loaded',
  'requests/s',
  'ratio',
  'ratios of the rounds',
  'CPU ms a request',
  'ratio of CPU',
];
const WRITE_COLUMNS = ['8 writers', 'changes', 'p50 ms', 'ratio', 'p99 ms', 'max ms'];

function pageOf(
  reads: ReadonlyMap<string, readonly Load[]>,
  writes: ReadonlyMap<string, readonly number[][]>,
  options: Options,
  where: string,
): string {
  const { seconds, rounds, connections } = options;
  const bare = [...reads.values()][0] ?? [];
  const bareCpuMs = median(bare.map(({ cpuMs }) => cpuMs));
  const readRows = [...reads].map(([name, loads]) => {
    const ratios = loads.map(({ rate }, round) => rate / (bare[round]?.rate ?? rate));
    const cpuMs = median(loads.map((load) => load.cpuMs));
    return [
      name,
      String(Math.round(median(loads.map(({ rate }) => rate)))),
      median(ratios).toFixed(2),
      `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`,
      cpuMs.toFixed(3),
      (bareCpuMs / cpuMs).toFixed(2),
    ];
  });
  const medianOf = (all: readonly number[][], share: number): number =>
    median(all.map((times) => percentile(times, share)));
  const baseP50 = medianOf([...writes.values()][0] ?? [], 0.5);
  const writeRows = [...writes].map(([name, all]) => {
    const p50 = medianOf(all, 0.5);
    const count = median(all.map(({ length }) => length));
    const slowest = Math.max(...all.flat());
    return [
      name,
      String(count),
      p50.toFixed(1),
      (p50 / baseP50).toFixed(2),
      medianOf(all, 0.99).toFixed(1),
      slowest.toFixed(1),
    ];
  });
  return `# What near caches save and cost

\`${callOf(CALL, options)}\`

${where}.

${markdownTable(READ_COLUMNS, readRows)}

${markdownTable(WRITE_COLUMNS, writeRows)}

- Three nodes share one Redis and one PostgreSQL; \`CACHE_NEAR=${ALL_ENTITIES}\`, or none.
  One of them gets the load, over ${connections} connections or from ${options.writers} writers.
- The ways take turns for ${seconds} s, in ${rounds} rounds. The tables show medians of the rounds,
  and the slowest change of all. All programs share the machine: the ratios count, not the rates.
- The processor time is that of the loaded process; it depends less on what else runs.
- The third node is stopped by SIGSTOP before each turn of the last line. A lease lasts
  ${NEAR_LEASE_MS} ms.
`;
}
