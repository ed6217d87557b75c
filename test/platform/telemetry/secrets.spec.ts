/**
 * Canaries: passwords and tokens go through every route that takes one, the wrong way too, and are then looked for everywhere:
 * in logs of both forms at the finest level, spans, metrics, problems, events and every other row, Redis, and in every byte that
 * went to PostgreSQL and Redis. And what callers write never makes a line of log of its own.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { createPino, PinoLogger } from '../../src/telemetry/logger.js';
import { type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import { ORDER, uniqueName } from '../support/factories.js';
import { ask, type RedisServer, startRedis } from '../support/redis.js';

const canary = (): string => `Kanarie ${randomBytes(9).toString('hex')} zingt`;

describe('a secret', () => {
  /** Every secret that was used, by what it is. */
  const secrets = new Map<string, string>();
  /** Everything that came out, by where. */
  const found: Record<string, string[]> = {
    json: [],
    pretty: [],
    spans: [],
    answers: [],
    wire: [],
  };
  const { write } = net.Socket.prototype;
  let collector: Server;
  let redis: RedisServer;
  let json: TestApp;
  let pretty: TestApp;
  let sql: pg.Client;
  let stores: Set<number>;
  let env: () => Record<string, string>;

  const secret = (what: string, value = canary()): string => {
    secrets.set(`${what} (${secrets.size})`, value);
    return value;
  };
  /** The answer, kept for the search; `token` of a login is taken out of it, since there it belongs. */
  async function call(
    app: TestApp,
    method: string,
    path: string,
    options: Call = {},
  ): Promise<Reply> {
    const reply = await app.call(method, path, options);
    const { token } = (typeof reply.body === 'object' && reply.body !== null ? reply.body : {}) as {
      token?: string;
    };
    if (token !== undefined) secret(`a token of ${path}`, token);
    const text = JSON.stringify([...reply.headers]) + reply.text;
    found.answers!.push(token === undefined ? text : text.replace(`"token":"${token}"`, ''));
    return reply;
  }

  beforeAll(async () => {
    redis = await startRedis();
    collector = createServer((request, response) => {
      request.setEncoding('utf8').on('data', (chunk: string) => found.spans!.push(chunk));
      request.on('end', () => response.end('{}'));
    });
    await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
    const admin = secret('the admin’s password');
    env = () => ({
      REDIS_URL: redis.url,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(collector.address() as AddressInfo).port}`,
      LOG_LEVEL: 'trace',
      RATE_LIMIT_PER_MINUTE: '100000',
      ADMIN_USERNAME: 'canary-admin',
      ADMIN_PASSWORD: admin,
    });
    stores = new Set([redis.port, Number(new URL(process.env.TEST_POSTGRES_URL as string).port)]);
    net.Socket.prototype.write = function (this: net.Socket, ...args: unknown[]) {
      const [chunk] = args;
      if (stores.has(this.remotePort ?? 0))
        found.wire!.push(Buffer.from(chunk as string).toString('latin1'));
      return (write as (...all: unknown[]) => boolean).apply(this, args);
    } as typeof write;
    json = await startApp(env(), undefined, { write: (line) => void found.json!.push(line) });
    secret('the database’s password', new URL(json.databaseUrl).password || randomUUID());
    sql = new pg.Client({ connectionString: json.databaseUrl });
    await sql.connect();
  }, 60_000);
  afterAll(async () => {
    net.Socket.prototype.write = write;
    await sql.end();
    await pretty.close();
    await json.close();
    await redis.stop();
    collector.closeAllConnections();
    await new Promise((resolve) => collector.close(resolve));
  });

  /** A life with every way to give a password or a token, right and wrong. */
  async function live(app: TestApp): Promise<void> {
    const username = uniqueName();
    const [first, second] = [secret(`${username}: first`), secret(`${username}: second`)];
    const post = (path: string, body: unknown, headers = {}): Promise<Reply> =>
      call(app, 'POST', path, { body, headers });
    const account = (password: unknown): object => ({
      username,
      email: `${username}@example.com`,
      password,
    });
    const { body: user } = await post('/v1/users', account(first));
    await post('/v1/users', account(secret('of a taken name')));
    await post('/v1/users', account([secret('in a list')]));
    await post('/v1/users', account({ value: secret('in an object') }));
    await post('/v1/users', account(`${secret('too long')}${'x'.repeat(200)}`));
    await post('/v1/users', account(`${secret('with a control character')}\u0007`));
    await post('/v1/users', { ...account(first), confirm: secret('in a member that is unknown') });
    await post('/v1/users', `{"username":"x","password":"${secret('in half a body')}`);
    await post('/v1/users', `{"password":"${secret('in a broken body')}" nonsense}`);
    await post('/v1/users', `${secret('a body that is no JSON')}`);
    await post('/v1/sessions', { username, password: secret('wrong') });
    await post('/v1/sessions', { username: 'nobody-at-all', password: secret('of nobody') });
    await post('/v1/sessions', `password=${secret('in a form')}`, {
      'Content-Type': 'application/x-www-form-urlencoded',
    });
    await call(app, 'GET', `/v1/sessions?password=${secret('in a query')}`);
    const basic = Buffer.from(`${username}:${secret('in Basic')}`).toString('base64');
    await call(app, 'GET', '/v1/users/me', { headers: { Authorization: `Basic ${basic}` } });
    const { body: session } = await post('/v1/sessions', { username, password: first });
    const token = session.token as string;

    await call(app, 'GET', '/v1/users/me', {
      token: secret('a token that is unknown', `hf_${randomBytes(32).toString('base64url')}`),
    });
    await call(app, 'GET', `/v1/users/me?access_token=${token}`);
    await call(app, 'GET', `/v1/users/me?token=${token}`, { token });
    for (const name of [
      'X-Auth-Token',
      'Cookie',
      'X-Request-Id',
      'If-None-Match',
      'X-Forwarded-For',
      'Accept',
      'Authorization',
    ])
      await call(app, 'GET', '/v1/users/me', { token, headers: { [name]: token } });
    await call(app, 'GET', `/v1/nowhere/x?${token}`);
    const order = await call(app, 'POST', '/v1/orders', {
      token,
      body: ORDER,
      headers: { 'Idempotency-Key': randomUUID() },
    });
    for (const path of [
      '/v1/users/me',
      '/v1/sessions',
      '/v1/sessions/current',
      `/v1/orders/${order.body.id}`,
      '/v1/orders',
    ])
      for (const headers of [{}, { 'Cache-Control': 'no-cache' }] as Record<string, string>[])
        await call(app, 'GET', path, { token, headers });
    await call(app, 'POST', `/v1/orders/${order.body.id}/pay`, { token, body: {} });
    await call(app, 'PATCH', `/v1/users/${user.id}`, {
      token,
      headers: { 'If-Match': '"1"' },
      body: { email: `${uniqueName()}@example.com` },
    });

    const change = (currentPassword: unknown, newPassword: unknown): Promise<Reply> =>
      call(app, 'PUT', `/v1/users/${user.id}/password`, {
        token,
        body: { currentPassword, newPassword },
      });
    await change(secret('wrong current'), secret('new behind a wrong one'));
    await change({ value: secret('current in an object') }, 7);
    expect((await change(first, second)).status).toBe(204);

    // Faults of the service's own, with a secret in hand.
    await sql.query('ALTER TABLE credentials RENAME TO gone');
    try {
      expect(
        (await post('/v1/sessions', { username, password: second })).status,
      ).toBeGreaterThanOrEqual(500);
      expect(
        (
          await post('/v1/users', {
            ...account(secret('of a fault')),
            username: uniqueName(),
            email: `${uniqueName()}@example.com`,
          })
        ).status,
      ).toBeGreaterThanOrEqual(500);
    } finally {
      await sql.query('ALTER TABLE gone RENAME TO credentials');
    }
    await sql.query('BEGIN');
    await sql.query('LOCK TABLE credentials');
    const blocked = post('/v1/sessions', { username, password: second });
    await sleep(300);
    const { rows } = await sql.query(
      `SELECT query FROM pg_stat_activity WHERE datname = current_database()`,
    );
    (found.activity ??= []).push(JSON.stringify(rows));
    expect((await blocked).status).toBe(503);
    await sql.query('ROLLBACK');

    await call(app, 'DELETE', '/v1/sessions/current', { token });
    await call(app, 'GET', '/v1/users/me', { token });
    await post('/v1/sessions', { username, password: second });
    found.metrics = [...(found.metrics ?? []), (await call(app, 'GET', '/metrics')).text];
  }

  /** Where the secrets are that stand in a text, plainly or as a machine would write them. */
  function sightings(text: string): string[] {
    return [...secrets].flatMap(([what, value]) => {
      const forms = [
        value,
        encodeURIComponent(value),
        value.replaceAll(' ', '+'),
        Buffer.from(value).toString('base64').replace(/=+$/, ''),
      ];
      return forms.some((form) => text.includes(form)) ? [what] : [];
    });
  }

  it('is seen nowhere but where it was given and where it is shown once', async () => {
    await live(json);
    // Nest has one logger a process: the second node takes it over.
    pretty = await startApp({ ...env(), LOG_FORMAT: 'pretty' }, json.databaseUrl, {
      write: (line) => void found.pretty!.push(line),
    });
    await live(pretty);
    await sleep(1_500); // The last batch of spans.

    const { rows: tables } = await sql.query<{ name: string }>(
      `SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'`,
    );
    found.rows = [];
    for (const { name } of tables)
      found.rows.push(JSON.stringify((await sql.query(`SELECT * FROM ${name}`)).rows));
    const keys = (await ask(redis.port, 'KEYS *'))
      .split('\r\n')
      .filter((line) => /^[^*$]/.test(line));
    found.redis = [keys.join('\n'), await ask(redis.port, 'SLOWLOG GET 128')];
    for (const key of keys.slice(0, 2_000))
      found.redis.push(await ask(redis.port, `GET ${key}`).catch(() => ''));

    // That there was something to search in.
    expect(Object.entries(found).filter(([, texts]) => texts.join('').length < 200)).toEqual([]);
    expect(keys.length).toBeGreaterThan(5);
    expect(found.wire!.join('')).toContain('INSERT INTO');
    expect(found.json!.join('')).toContain('"level":"error"');
    for (const event of [
      'login-failed',
      'password-wrong',
      'session-refused',
      'input-refused',
      'logged-in',
    ])
      expect([found.json, found.pretty].map((texts) => texts!.join('').includes(event))).toEqual([
        true,
        true,
      ]);
    expect(secrets.size).toBe(48);
    const seen = Object.fromEntries(
      Object.entries(found).map(([where, texts]) => [where, sightings(texts.join('\n'))]),
    );
    process.stdout.write(
      `    canaries: ${secrets.size} secrets, ${Object.keys(found).length} places, ${Math.round(Object.values(found).flat().join('').length / 1024)} KiB searched\n`,
    );
    // The test database's own password goes to PostgreSQL in its handshake, as it must.
    expect(seen).toEqual(Object.fromEntries(Object.keys(found).map((where) => [where, []])));
  }, 90_000);

  it('would be found: the search sees what is put in its way', () => {
    const [what, value] = [...secrets][0]!;
    expect(sightings(`a line with ${value} in it`)).toContain(what);
    expect(sightings(`/path?x=${encodeURIComponent(value)}`)).toContain(what);
    expect(sightings(Buffer.from(value).toString('base64'))).toContain(what);
  });
});

describe('a line of log', () => {
  const HOSTILE = [
    'a\n{"level":"info","msg":"forged"}',
    'a\r\n[12:00:00.000] INFO: forged',
    '\u001b[2J\u001b[31mred\u001b]0;title\u0007',
    'c1 \u009b31m \u0085 next',
    'separators \u2028 \u2029',
    'nul \u0000 del \u007f tab \t back \b',
    'bare\rover',
  ];
  const ACTING = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

  it.each(['json', 'pretty'] as const)(
    'stays one line without controls, whatever it is made of (%s)',
    (logFormat) => {
      for (const text of HOSTILE) {
        const lines: string[] = [];
        const logger = new PinoLogger(
          createPino({ logLevel: 'trace', logFormat }, { write: (line) => void lines.push(line) }),
        );
        logger.log(text, 'Test');
        logger.error(text, 'Test');
        logger.warn({ text }, 'Test');
        const written = lines.join('');
        expect(written.trimEnd().split('\n')).toHaveLength(3);
        expect(written.replaceAll('\n', '')).not.toMatch(ACTING);
        expect(written).toContain(/[a-z]{3,}/.exec(text)?.[0]);
      }
    },
  );

  it.each(['json', 'pretty'] as const)(
    'keeps the frames of a stack, and nothing else, as lines (%s)',
    (logFormat) => {
      const lines: string[] = [];
      const logger = new PinoLogger(
        createPino({ logLevel: 'trace', logFormat }, { write: (line) => void lines.push(line) }),
      );
      const error = new Error('bad\n[12:00:00.000] INFO: forged \u001b[31m');
      logger.error(`id GET /path: ${error.stack}`, 'Http');
      logger.error(error, 'Http');
      const written = lines.join('');
      expect(written.split('\n').filter((line) => line.startsWith('[12:00'))).toEqual([]);
      expect(written.replaceAll('\n', '')).not.toMatch(ACTING);
      expect(written).toContain('    at ');
    },
  );

  it.each(['json', 'pretty'])(
    'of a fault is not made by what the caller sent (%s)',
    async (LOG_FORMAT) => {
      const lines: string[] = [];
      const app = await startApp({ LOG_LEVEL: 'trace', LOG_FORMAT }, undefined, {
        write: (line) => void lines.push(line),
      });
      const sql = new pg.Client({ connectionString: app.databaseUrl });
      await sql.connect();
      try {
        await sql.query('ALTER TABLE users RENAME TO gone');
        const before = lines.length;
        const marks = '%0a%0d%1b[31mforged%e2%80%a8%c2%9b';
        const hostile = {
          'User-Agent': 'x\u009b31m\u001b[31m'.replace(/\u001b/g, ''),
          'X-Request-Id': 'forged%0a',
          Referer: marks,
        };
        const replies = [
          await app.call('POST', '/v1/sessions', {
            headers: hostile,
            body: { username: 'x\nforged\u001b[31m', password: 'forged' },
          }),
          await app.call('POST', '/v1/sessions', {
            headers: hostile,
            body: { username: 'forged-name', password: 'forged password' },
          }),
          await app.call('GET', `/v1/users/me?${marks}`, { headers: hostile, token: 'forged' }),
          await app.call('GET', `/v1/orders/${marks}`, { headers: hostile }),
        ];
        expect(replies.map(({ status }) => status)).toContain(500);
        const written = lines.slice(before).join('');
        expect(written).not.toBe('');
        expect(written.replaceAll('\n', '')).not.toMatch(ACTING);
        expect(written).not.toContain('forged');
      } finally {
        await sql.end();
        await app.close();
      }
    },
  );
});
