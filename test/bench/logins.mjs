/**
 * `npm run bench:logins`: what a storm of logins does to everyone else. One process with Redis; cached reads at a fixed rate, in
 * rounds with and without 50 logins a second beside them, in turn; the ratio of their 99th percentiles is what counts. Then the
 * times of refused logins, for names that exist and names that do not. Writes docs/bench/logins.md.
 *
 * node test/bench/logins.mjs [--seconds 5] [--rounds 4] [--reads 300] [--logins 50]
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '4' },
    reads: { type: 'string', default: '300' },
    logins: { type: 'string', default: '50' },
  },
});
const options = Object.fromEntries(
  Object.entries(values).map(([name, value]) => [name, Number(value)]),
);
const PASSWORD = 'a bench made of old oak';

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
const children = [];
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
      if (match) resolve(match);
    });
    child.once('exit', (code) => reject(new Error(`${command} ended with ${code}: ${printed}`)));
  });
}

const percentile = (numbers, share) =>
  numbers.toSorted((a, b) => a - b)[Math.ceil(numbers.length * share) - 1] ?? NaN;
const ms = (number) => number.toFixed(1);

const folder = await mkdtemp(join(tmpdir(), 'holdfast-bench-'));
try {
  const port = await freePort();
  const redisArgs = [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--save',
    '',
    '--appendonly',
    'no',
  ];
  await start('redis-server', redisArgs, {}, /Ready to accept connections/);
  const env = { PORT: '0', RATE_LIMIT_PER_MINUTE: '0', LOG_FORMAT: 'json', LOG_LEVEL: 'info' };
  const [, url] = await start(
    'node',
    ['dist/src/main.js'],
    { ...env, DATA_DIR: join(folder, 'data'), REDIS_URL: `redis://127.0.0.1:${port}` },
    /API (http:\S+)\/v1/,
  );
  const call = (method, path, { token, body, userAgent = 'bench' } = {}) =>
    fetch(url + path, {
      method,
      headers: {
        'User-Agent': userAgent,
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
        ...(body ? { 'Content-Type': 'application/json' } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
  const users = Array.from({ length: 20 }, (_, index) => `bench-${index}`);
  for (const username of users) {
    const { status } = await call('POST', '/v1/users', {
      body: { username, email: `${username}@example.com`, password: PASSWORD },
    });
    if (status !== 201) throw new Error(`register: ${status}`);
  }
  const logIn = (username, password = PASSWORD, userAgent = 'bench') =>
    call('POST', '/v1/sessions', { body: { username, password }, userAgent });
  const { token } = await (await logIn(users[0])).json();

  /** `perSecond` requests a second, whether or not those before have been answered. */
  async function openLoop(perSecond, seconds, send) {
    const began = performance.now();
    const sent = [];
    for (let number = 0; number < perSecond * seconds; number++) {
      const due = began + (number * 1000) / perSecond;
      const wait = due - performance.now();
      if (wait > 0) await sleep(wait);
      const from = performance.now();
      sent.push(
        send(number).then(async (response) => {
          await response.arrayBuffer();
          return { status: response.status, took: performance.now() - from };
        }),
      );
    }
    return Promise.all(sent);
  }
  const read = () => call('GET', '/v1/users/me', { token });
  const login = (number) => logIn(users[number % users.length]);

  await openLoop(options.reads, 2, read);
  await openLoop(options.logins, 2, login);
  const rounds = [];
  for (let round = 0; round < options.rounds; round++) {
    await sleep(3_000); // What waits from the last storm is hashed by then.
    const quiet = await openLoop(options.reads, options.seconds, read);
    const [stormy, logins] = await Promise.all([
      openLoop(options.reads, options.seconds, read),
      openLoop(options.logins, options.seconds, login),
    ]);
    const bad = [...quiet, ...stormy].filter(({ status }) => status !== 200).length;
    if (bad > 0) throw new Error(`${bad} reads were not answered`);
    rounds.push({
      quiet: quiet.map(({ took }) => took),
      stormy: stormy.map(({ took }) => took),
      logins,
    });
  }
  await sleep(3_000);
  const refused = { known: [], unknown: [] };
  for (let turn = 0; turn < 25; turn++)
    for (const kind of ['known', 'unknown']) {
      const from = performance.now();
      const name = kind === 'known' ? users[turn % users.length] : `nobody-${turn}`;
      const { status } = await logIn(name, 'ten tall ships at anchor', `stranger-${turn}`);
      if (status !== 401) throw new Error(`refused login: ${status}`);
      refused[kind].push(performance.now() - from);
    }

  const quiet = rounds.flatMap((round) => round.quiet);
  const stormy = rounds.flatMap((round) => round.stormy);
  const logins = rounds.flatMap((round) => round.logins);
  const count = (status) => logins.filter((one) => one.status === status).length;
  const ratios = rounds.map(
    (round) => percentile(round.stormy, 0.99) / percentile(round.quiet, 0.99),
  );
  const row = (name, times) =>
    `| ${name} | ${times.length} | ${ms(percentile(times, 0.5))} | ${ms(percentile(times, 0.99))} |`;
  const report = `# Reads during a storm of logins

\`npm run bench:logins -- --seconds ${options.seconds} --rounds ${options.rounds} --reads ${options.reads} --logins ${options.logins}\`; ${availableParallelism()} cores, load ${loadavg()[0].toFixed(1)} at the end, Node ${process.version}.
One process with Redis; ${options.reads} cached reads a second, sent on time whether or not those before were answered, with and without ${options.logins} logins a second beside them, in turn.
The client, the service, PostgreSQL and Redis share the cores.

| | requests | p50 ms | p99 ms |
| --- | ---: | ---: | ---: |
${row('cached reads alone', quiet)}
${row(`cached reads beside ${options.logins} logins a second`, stormy)}

Ratio of the 99th percentiles: **${(percentile(stormy, 0.99) / percentile(quiet, 0.99)).toFixed(2)}** (by round: ${ratios.map((one) => one.toFixed(2)).join(', ')}). Of ${logins.length} logins ${count(201)} were answered with 201 and ${count(503)} shed with 503.

Refused logins, one after the other:

| | requests | p50 ms | p99 ms |
| --- | ---: | ---: | ---: |
${row('a wrong password', refused.known)}
${row('a name that nobody has', refused.unknown)}
`;
  await writeFile('docs/bench/logins.md', report);
  console.log(report);
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
    sleep(15_000),
  ]);
  await rm(folder, { recursive: true, force: true });
}
