/**
 * Secrets stay secret. A scenario sends passwords and tokens to every route that takes one, also in
 * wrong places. The tests then search for them in everything that the service writes: logs, spans,
 * metrics, responses, tables, Redis, and every byte to PostgreSQL and Redis.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DATABASE_TIMEOUTS_MS } from '../../../src/platform/database/data-source.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { ORDER, uniqueUsername } from '../../support/factories.js';
import type { Reply, RequestOptions } from '../../support/http-client.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../support/redis.js';
import { longTimeouts } from '../../support/timeouts.js';

/** Where the tests search. */
const PLACES = [
  'the JSON log',
  'the text log',
  'spans',
  'metrics',
  'responses',
  'rows of PostgreSQL',
  'the running queries of PostgreSQL',
  'keys and values of Redis',
  'the bytes sent to PostgreSQL and Redis',
] as const;
type Place = (typeof PLACES)[number];

const texts = Object.fromEntries(PLACES.map((place) => [place, [] as string[]])) as Record<
  Place,
  string[]
>;
const record = (place: Place, text: string): void => void texts[place].push(text);

/** Every secret of the scenario: what it is → its value. */
const secrets = new Map<string, string>();
/** Change it together with the scenario: a secret that is lost by mistake is not searched for. */
const EXPECTED_SECRETS = 48;

/** A new password, unless a value is given. It is searched for from now on. */
function secret(what: string, value = `Kanarie ${randomBytes(9).toString('hex')} zingt`): string {
  secrets.set(`${what} (${secrets.size})`, value);
  return value;
}

/** What the secrets in the text are: as they were sent, or encoded. */
function secretsIn(text: string): string[] {
  const encodings = (value: string): string[] => [
    value,
    encodeURIComponent(value),
    value.replaceAll(' ', '+'),
    Buffer.from(value).toString('base64').replace(/=+$/, ''),
  ];
  return [...secrets]
    .filter(([, value]) => encodings(value).some((form) => text.includes(form)))
    .map(([what]) => what);
}

let sql: pg.Client;

/** One user of one node, with every way to send a password or a token, right and wrong. */
class Scenario {
  private readonly username = uniqueUsername();
  private readonly password = secret(`${this.username}: first password`);
  private readonly newPassword = secret(`${this.username}: second password`);
  private userId = '';
  private token = '';

  constructor(private readonly app: TestApp) {}

  async run(): Promise<void> {
    await this.register();
    await this.logIn();
    await this.sendTokenInWrongPlaces();
    await this.useToken();
    await this.changePassword();
    await this.failInsideTheService();
    await this.waitForALock();
    await this.logOut();
    record('metrics', (await this.call('GET', '/metrics')).text);
    await this.awaitSpans();
  }

  private async register(): Promise<void> {
    const { body } = await this.post('/v1/users', this.account(this.password));
    this.userId = body.id as string;
    for (const password of [
      secret('of a taken username'),
      [secret('in a list')],
      { value: secret('in an object') },
      `${secret('too long')}${'x'.repeat(200)}`,
      `${secret('with a control character')}\u0007`,
    ]) {
      await this.post('/v1/users', this.account(password));
    }
    const unknownMember = { confirm: secret('in an unknown member') };
    await this.post('/v1/users', { ...this.account(this.password), ...unknownMember });
    for (const brokenBody of [
      `{"username":"x","password":"${secret('in half a body')}`,
      `{"password":"${secret('in a broken body')}" nonsense}`,
      secret('a body that is not JSON'),
    ]) {
      await this.post('/v1/users', brokenBody);
    }
  }

  private async logIn(): Promise<void> {
    const { username } = this;
    await this.post('/v1/sessions', { username, password: secret('wrong') });
    await this.post('/v1/sessions', { username: 'nobody-at-all', password: secret('of nobody') });
    await this.post('/v1/sessions', `password=${secret('in a form')}`, {
      'Content-Type': 'application/x-www-form-urlencoded',
    });
    await this.call('GET', `/v1/sessions?password=${secret('in a query')}`);
    const basic = Buffer.from(`${username}:${secret('in Basic')}`).toString('base64');
    await this.call('GET', '/v1/users/me', { headers: { Authorization: `Basic ${basic}` } });
    const { body } = await this.post('/v1/sessions', { username, password: this.password });
    this.token = body.token as string;
  }

  private async sendTokenInWrongPlaces(): Promise<void> {
    const { token } = this;
    const unknownToken = secret('an unknown token', `hf_${randomBytes(32).toString('base64url')}`);
    await this.call('GET', '/v1/users/me', { token: unknownToken });
    await this.call('GET', `/v1/users/me?access_token=${token}`);
    await this.call('GET', `/v1/users/me?token=${token}`, { token });
    await this.call('GET', `/v1/nowhere/x?${token}`);
    for (const name of [
      'X-Auth-Token',
      'Cookie',
      'X-Request-Id',
      'If-None-Match',
      'X-Forwarded-For',
      'Accept',
      'Authorization',
    ]) {
      await this.call('GET', '/v1/users/me', { token, headers: { [name]: token } });
    }
  }

  private async useToken(): Promise<void> {
    const { token } = this;
    const headers = { 'Idempotency-Key': randomUUID() };
    const { body: order } = await this.call('POST', '/v1/orders', { token, body: ORDER, headers });
    for (const path of [
      '/v1/users/me',
      '/v1/sessions',
      '/v1/sessions/current',
      `/v1/orders/${order.id}`,
      '/v1/orders',
    ]) {
      await this.call('GET', path, { token });
      await this.call('GET', path, { token, headers: { 'Cache-Control': 'no-cache' } });
    }
    await this.call('POST', `/v1/orders/${order.id}/pay`, { token, body: {} });
    await this.call('PATCH', `/v1/users/${this.userId}`, {
      token,
      headers: { 'If-Match': '"1"' },
      body: { email: `${uniqueUsername()}@example.com` },
    });
  }

  private async changePassword(): Promise<void> {
    const change = (currentPassword: unknown, newPassword: unknown): Promise<Reply> =>
      this.call('PUT', `/v1/users/${this.userId}/password`, {
        token: this.token,
        body: { currentPassword, newPassword },
      });
    await change(secret('wrong current'), secret('new beside a wrong current one'));
    await change({ value: secret('current in an object') }, 7);
    expect((await change(this.password, this.newPassword)).status).toBe(204);
  }

  /** A missing table: errors of the service, with a password at hand. */
  private async failInsideTheService(): Promise<void> {
    await sql.query('ALTER TABLE credentials RENAME TO hidden');
    try {
      const login = { username: this.username, password: this.newPassword };
      expect((await this.post('/v1/sessions', login)).status).toBe(500);
      const newUser = { username: uniqueUsername(), email: `${uniqueUsername()}@example.com` };
      const registration = { ...newUser, password: secret('of a request that fails') };
      expect((await this.post('/v1/users', registration)).status).toBe(500);
    } finally {
      await sql.query('ALTER TABLE hidden RENAME TO credentials');
    }
  }

  /** While a login waits in PostgreSQL, its query is visible to administrators. */
  private async waitForALock(): Promise<void> {
    const locker = new pg.Client({ connectionString: this.app.databaseUrl });
    await locker.connect();
    try {
      await locker.query('BEGIN');
      await locker.query('LOCK TABLE credentials');
      const login = { username: this.username, password: this.newPassword };
      const blocked = this.post('/v1/sessions', login);
      const waiting = `SELECT query FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'`;
      await eventually('the login waits', async () => (await sql.query(waiting)).rowCount);
      const { rows } = await sql.query(
        'SELECT query FROM pg_stat_activity WHERE datname = current_database()',
      );
      record('the running queries of PostgreSQL', JSON.stringify(rows));
      // After the lock timeout of the service's connections.
      expect((await blocked).status).toBe(503);
    } finally {
      await locker.end();
    }
  }

  private async logOut(): Promise<void> {
    const { token } = this;
    await this.call('DELETE', '/v1/sessions/current', { token });
    await this.call('GET', '/v1/users/me', { token });
    await this.post('/v1/sessions', { username: this.username, password: this.newPassword });
  }

  /** Spans are sent in order: when the last one has arrived, all have. */
  private async awaitSpans(): Promise<void> {
    const traceId = randomBytes(16).toString('hex');
    const headers = { traceparent: `00-${traceId}-${randomBytes(8).toString('hex')}-01` };
    await this.call('GET', '/v1/users/me', { headers });
    await eventually('the last span has arrived', () => texts.spans.join('').includes(traceId));
  }

  private account(password: unknown): object {
    return { username: this.username, email: `${this.username}@example.com`, password };
  }

  private post(path: string, body: unknown, headers = {}): Promise<Reply> {
    return this.call('POST', path, { body, headers });
  }

  /** Records the response, without the token that a login shows once. */
  private async call(method: string, path: string, options?: RequestOptions): Promise<Reply> {
    const reply = await this.app.call(method, path, options);
    const { token } = Object(reply.body) as { token?: string };
    if (token !== undefined) secret(`a token of ${path}`, token);
    const text = JSON.stringify([...reply.headers]) + reply.text;
    record('responses', token === undefined ? text : text.replace(`"token":"${token}"`, ''));
    return reply;
  }
}

/**
 * Records the bytes that this process sends to these ports.
 * @returns ends the recording
 */
function recordWrites(ports: ReadonlySet<number>): () => void {
  const { write } = net.Socket.prototype;
  net.Socket.prototype.write = function (this: net.Socket, ...args: unknown[]) {
    if (ports.has(this.remotePort ?? 0)) {
      const bytes = Buffer.from(args[0] as string);
      record('the bytes sent to PostgreSQL and Redis', bytes.toString('latin1'));
    }
    return (write as (...all: unknown[]) => boolean).apply(this, args);
  } as typeof write;
  return () => {
    net.Socket.prototype.write = write;
  };
}

/** An OTLP collector that records what it receives. */
async function startCollector(): Promise<Server> {
  const collector = createServer((request, response) => {
    request.setEncoding('utf8').on('data', (chunk: string) => record('spans', chunk));
    request.on('end', () => response.end('{}'));
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  return collector;
}

async function recordTables(): Promise<void> {
  const { rows: tables } = await sql.query<{ name: string }>(
    `SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'`,
  );
  for (const { name } of tables) {
    const { rows } = await sql.query(`SELECT * FROM ${name}`);
    record('rows of PostgreSQL', JSON.stringify(rows));
  }
}

async function recordRedis(port: number): Promise<void> {
  const reply = await sendRedisCommand(port, 'KEYS *');
  const keys = reply.split('\r\n').filter((line) => /^[^*$]/.test(line));
  record('keys and values of Redis', keys.join('\n'));
  record('keys and values of Redis', await sendRedisCommand(port, 'SLOWLOG GET 128'));
  for (const key of keys) {
    // An error for a key that is not a string.
    const value = await sendRedisCommand(port, `GET ${key}`).catch(() => '');
    record('keys and values of Redis', value);
  }
}

describe('a password or token', () => {
  let collector: Server;
  let redis: RedisServer;
  let stopRecording: () => void;
  const nodes: TestApp[] = [];

  beforeAll(async () => {
    [collector, redis] = await Promise.all([startCollector(), startRedis()]);
    const postgresUrl = new URL(process.env.TEST_POSTGRES_URL as string);
    stopRecording = recordWrites(new Set([redis.port, Number(postgresUrl.port)]));
    const env = {
      REDIS_URL: redis.url,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(collector.address() as AddressInfo).port}`,
      LOG_LEVEL: 'trace',
      RATE_LIMIT_PER_MINUTE: '100000',
      ADMIN_USERNAME: 'canary-admin',
      ADMIN_PASSWORD: secret('the password of the administrator'),
    };
    const timeouts = [longTimeouts({ lock: DATABASE_TIMEOUTS_MS.lock })];
    const jsonLog = { write: (line: string) => record('the JSON log', line) };
    const jsonNode = await startApp(env, undefined, jsonLog, timeouts);
    nodes.push(jsonNode);
    const { databaseUrl } = jsonNode;
    secret('the password of the database', new URL(databaseUrl).password || randomUUID());
    sql = new pg.Client({ connectionString: databaseUrl });
    await sql.connect();
    await new Scenario(jsonNode).run();

    // One after the other: Nest has one logger in a process, and the newest node takes it over.
    const textLog = { write: (line: string) => record('the text log', line) };
    const textEnv = { ...env, LOG_FORMAT: 'pretty' };
    const textNode = await startApp(textEnv, databaseUrl, textLog, timeouts);
    nodes.push(textNode);
    await new Scenario(textNode).run();

    await recordTables();
    await recordRedis(redis.port);
  }, 120_000);
  afterAll(async () => {
    stopRecording();
    await sql.end();
    for (const node of nodes) await node.close();
    await redis.stop();
    collector.closeAllConnections();
    await new Promise((resolve) => collector.close(resolve));
  });

  it.each(PLACES)('does not appear in %s', (place) => {
    const text = texts[place].join('\n');
    expect(text.length).toBeGreaterThan(200);
    expect(secretsIn(text)).toEqual([]);
  });

  it('was sent in every way that the scenario knows', () => {
    expect([...secrets.keys()]).toHaveLength(EXPECTED_SECRETS);
  });

  it.each([
    ['the bytes sent to PostgreSQL and Redis', 'INSERT INTO'],
    ['keys and values of Redis', ':user:'],
    ['the JSON log', '"level":"error"'],
    ...['login-failed', 'password-wrong', 'session-refused', 'input-refused', 'logged-in'].flatMap(
      (event) => [
        ['the JSON log', event],
        ['the text log', event],
      ],
    ),
  ] as [Place, string][])('was searched for where it could be: %s contains "%s"', (place, text) => {
    expect(texts[place].join('\n')).toContain(text);
  });

  it.each([
    ['plain', (value: string) => `a line with ${value} in it`],
    ['in a URL', (value: string) => `/path?x=${encodeURIComponent(value)}`],
    ['in a form', (value: string) => `x=${value.replaceAll(' ', '+')}`],
    ['in Base64', (value: string) => Buffer.from(value).toString('base64')],
  ])('would be found by the search (%s)', (_, toText) => {
    const [what, value] = [...secrets][0]!;
    expect(secretsIn(toText(value))).toContain(what);
  });
});
