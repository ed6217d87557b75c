/**
 * `npm run bench`: what the service costs, beside peers that do the same work, in one run on one machine. Each server is one
 * process; rounds alternate between the servers, so that the machine's moods hit all alike; ratios are what counts.
 *
 * node test/bench/run.mjs [--seconds 5] [--rounds 3] [--connections 64]
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import autocannon from 'autocannon';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '64' },
  },
});
const [seconds, rounds, connections] = [values.seconds, values.rounds, values.connections].map(
  Number,
);

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const children = [];
/** Starts a process and resolves with the first match of `ready` in what it prints. */
function start(command, args, env, ready) {
  const child = spawn(command, args, {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  return new Promise((resolve, reject) => {
    let printed = '';
    child.stdout.on('data', (chunk) => {
      printed += chunk;
      const match = ready.exec(printed);
      if (match) resolve({ child, match });
    });
    child.once('exit', (code) =>
      reject(new Error(`${command} ${args[0]} ended with ${code}: ${printed}`)),
    );
  });
}

/** The bare route: the same JSON, from memory, with no more than Fastify's own work. */
const BARE = `
  import Fastify from 'fastify';
  const app = Fastify();
  const body = JSON.parse(process.env.BODY);
  app.get('/order', () => body);
  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log('ready ' + app.addresses()[0].port);
`;

async function api(url, method, path, { token, body, headers } = {}) {
  const response = await fetch(url + path, {
    method,
    headers: {
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
      ...(body ? { 'Content-Type': 'application/json' } : {}),
      ...headers,
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  if (!response.ok)
    throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.status === 204 ? undefined : response.json();
}

async function load(url, headers = {}) {
  const result = await autocannon({ url, connections, duration: seconds, headers });
  if (result.non2xx > 0 || result.errors > 0)
    throw new Error(`${url}: ${result.non2xx} non-2xx, ${result.errors} errors`);
  return { rate: result.requests.average, p50: result.latency.p50, p99: result.latency.p99 };
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

const folder = await mkdtemp(join(tmpdir(), 'holdfast-bench-'));
try {
  const redisPort = await freePort();
  await start(
    'redis-server',
    ['--port', String(redisPort), '--save', '', '--appendonly', 'no'],
    {},
    /Ready to accept connections/,
  );
  const service = (env) =>
    start(
      'node',
      ['dist/src/main.js'],
      { PORT: '0', RATE_LIMIT_PER_MINUTE: '0', LOG_FORMAT: 'json', ...env },
      /API (http:\S+)\/v1/,
    );
  const redis = await service({
    DATA_DIR: join(folder, 'one'),
    REDIS_URL: `redis://127.0.0.1:${redisPort}`,
  });
  const memory = await service({ DATA_DIR: join(folder, 'two') });

  const targets = {};
  let order;
  for (const [name, { match }] of Object.entries({
    'order read, Redis': redis,
    'order read, in memory': memory,
  })) {
    const url = match[1];
    const user = {
      username: 'bench',
      email: 'bench@example.com',
      password: 'a bench made of old oak',
    };
    await api(url, 'POST', '/v1/users', { body: user });
    const { token } = await api(url, 'POST', '/v1/sessions', {
      body: user && { username: user.username, password: user.password },
    });
    order = await api(url, 'POST', '/v1/orders', {
      token,
      headers: { 'Idempotency-Key': randomUUID() },
      body: {
        currency: 'EUR',
        items: [1, 2, 3].map((n) => ({
          sku: `SKU-${n}`,
          name: `Thing ${n}`,
          quantity: n,
          unitPrice: 1000 * n,
        })),
      },
    });
    targets[name] = {
      url: `${url}/v1/orders/${order.id}`,
      headers: { authorization: `Bearer ${token}` },
    };
    targets[name].health = { url: `${url}/health/live` };
  }
  const bare = await start(
    'node',
    ['--input-type=module', '-e', BARE],
    { BODY: JSON.stringify(order) },
    /ready (\d+)/,
  );
  const all = {
    'bare Fastify route, same JSON': { url: `http://127.0.0.1:${bare.match[1]}/order` },
    ...targets,
    'GET /health/live': targets['order read, in memory'].health,
  };

  const results = Object.fromEntries(Object.keys(all).map((name) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const [name, { url, headers }] of Object.entries(all)) {
      const result = await load(url, headers);
      // The first round warms the JITs.
      if (round > 0) results[name].push(result);
    }
  }
  const base = median(results['bare Fastify route, same JSON'].map(({ rate }) => rate));
  console.log(
    `| one process, ${connections} connections, median of ${rounds} × ${seconds} s | requests/s | ratio | p50 ms | p99 ms |`,
  );
  console.log('| --- | ---: | ---: | ---: | ---: |');
  for (const [name, list] of Object.entries(results)) {
    const rate = median(list.map((one) => one.rate));
    console.log(
      `| ${name} | ${Math.round(rate)} | ${(rate / base).toFixed(2)} | ${median(list.map((one) => one.p50))} | ${median(list.map((one) => one.p99))} |`,
    );
  }
} finally {
  for (const child of children.reverse()) {
    child.removeAllListeners('exit');
    child.kill('SIGTERM');
  }
  await Promise.race([
    Promise.all(
      children.map(
        (child) => child.exitCode ?? new Promise((resolve) => child.once('exit', resolve)),
      ),
    ),
    new Promise((resolve) => setTimeout(resolve, 15_000)),
  ]);
  await rm(folder, { recursive: true, force: true });
}
