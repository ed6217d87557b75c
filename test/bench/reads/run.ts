/**
 * What the service adds to a read: an order over HTTP, with the cache in Redis and in memory,
 * beside a bare Fastify route that sends the same JSON. Each server is one process; all share the
 * machine with their client.
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import autocannon from 'autocannon';
import { startBuiltService } from '../../support/built-service.js';
import { type RunningProgram, startProgram } from '../../support/child-process.js';
import { requestBody } from '../../support/http-client.js';
import { median } from '../../support/percentile.js';
import { callOf, parseNumbers, usageOf } from '../../support/program-table.js';
import { startRedis } from '../../support/redis.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { alternate, type Measurement } from '../rounds.js';

const DEFAULTS = { seconds: 5, rounds: 3, connections: 64 } as const;
type Options = Record<keyof typeof DEFAULTS, number>;

const CALL = 'npm run bench -- reads';
export const USAGE = `${usageOf(CALL, DEFAULTS)}
Needs the build: npm run build.`;

const USER = {
  username: 'bench',
  email: 'bench@example.com',
  password: 'a bench made of old oak',
} as const;
const ORDER = {
  currency: 'EUR',
  items: [1, 2, 3].map((number) => ({
    sku: `SKU-${number}`,
    name: `Thing ${number}`,
    quantity: number,
    unitPrice: 1_000 * number,
  })),
} as const;

/** No more than Fastify's own work: the JSON is an object in memory. */
const BARE_SERVER = `
  import Fastify from 'fastify';
  const app = Fastify();
  const body = JSON.parse(process.env.BODY);
  app.get('/order', () => body);
  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log('ready ' + app.addresses()[0].port);
`;
const BARE_ROUTE = 'bare Fastify route, same JSON';

interface Target {
  readonly url: string;
  readonly headers?: Record<string, string>;
}

interface Load {
  /** Requests a second. */
  readonly rate: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, DEFAULTS);
  const where = await describeMachine();
  const redis = await startRedis();
  const programs: RunningProgram[] = [];
  try {
    const targets = await startTargets(redis.url, programs);
    const ways = Object.entries(targets).map(([name, target]): [string, Measurement<Load>] => [
      name,
      () => load(target, options),
    ]);
    const results = await alternate(options.rounds, Object.fromEntries(ways));
    await writePage('reads', pageOf(results, options, where));
  } finally {
    await Promise.all(programs.map((program) => program.stop()));
    await redis.stop();
  }
  return 0;
}

/** @param programs receives what was started, also when a later start fails */
async function startTargets(
  redisUrl: string,
  programs: RunningProgram[],
): Promise<Record<string, Target>> {
  const startService = async (env: Record<string, string>): Promise<string> => {
    const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-bench-'));
    const service = await startBuiltService({
      DATA_DIR: dataDir,
      RATE_LIMIT_PER_MINUTE: '0',
      ...env,
    });
    programs.push(service);
    return service.url;
  };
  const withRedis = await startService({ REDIS_URL: redisUrl });
  const inMemory = await startService({});
  const redisOrder = await prepareOrder(withRedis);
  const memoryOrder = await prepareOrder(inMemory);
  const bareServer = await startProgram({
    command: process.execPath,
    args: ['--input-type=module', '-e', BARE_SERVER],
    env: { BODY: memoryOrder.body },
    readyPattern: /ready (\d+)/,
  });
  programs.push(bareServer);
  return {
    [BARE_ROUTE]: { url: `http://127.0.0.1:${bareServer.ready[1]}/order` },
    'order read, cache in Redis': redisOrder.target,
    'order read, cache in memory': memoryOrder.target,
    'GET /health/live': { url: `${inMemory}/health/live` },
  };
}

/** An order in this service, and how its owner reads it. */
async function prepareOrder(url: string): Promise<{ target: Target; body: string }> {
  const { username, password } = USER;
  await requestBody(`${url}/v1/users`, 'POST', { body: USER });
  const login = { body: { username, password } };
  const { token } = (await requestBody(`${url}/v1/sessions`, 'POST', login)) as { token: string };
  const placing = { token, body: ORDER, headers: { 'Idempotency-Key': randomUUID() } };
  const order = (await requestBody(`${url}/v1/orders`, 'POST', placing)) as { id: string };
  const headers = { authorization: `Bearer ${token}` };
  return { target: { url: `${url}/v1/orders/${order.id}`, headers }, body: JSON.stringify(order) };
}

/** @throws Error when a request was not answered with 2xx */
async function load({ url, headers = {} }: Target, options: Options): Promise<Load> {
  const { connections, seconds: duration } = options;
  const result = await autocannon({ url, connections, duration, headers });
  if (result.non2xx > 0 || result.errors > 0) {
    throw new Error(`${url}: ${result.non2xx} responses that are not 2xx, ${result.errors} errors`);
  }
  return { rate: result.requests.average, p50: result.latency.p50, p99: result.latency.p99 };
}

function pageOf(
  results: ReadonlyMap<string, readonly Load[]>,
  options: Options,
  where: string,
): string {
  const { seconds, rounds, connections } = options;
  const medianOf = (loads: readonly Load[], pick: (load: Load) => number): number =>
    median(loads.map(pick));
  const bareRate = medianOf(results.get(BARE_ROUTE) ?? [], ({ rate }) => rate);
  const rows = [...results].map(([name, loads]) => {
    const rate = medianOf(loads, (load) => load.rate);
    const p50 = medianOf(loads, (load) => load.p50);
    const p99 = medianOf(loads, (load) => load.p99);
    return [name, String(Math.round(rate)), (rate / bareRate).toFixed(2), String(p50), String(p99)];
  });
  return `# What the service adds to a read

\`${callOf(CALL, options)}\`

${where}.

${markdownTable(['one process each', 'requests/s', 'ratio', 'p50 ms', 'p99 ms'], rows)}

- The servers take turns: in each of ${rounds} rounds each is asked for ${seconds} s over
  ${connections} connections. The table shows medians of the rounds.
- The client, the servers, PostgreSQL and Redis share the machine, so the ratios count and not the
  rates.
`;
}
