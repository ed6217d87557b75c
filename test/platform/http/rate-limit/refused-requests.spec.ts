/** Requests that are refused, for whatever reason, count; and refusing them costs little. */
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { createToken } from '../../../../src/auth/sessions/token.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { registerUser } from '../../../support/factories.js';
import type { Reply, RequestOptions } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';

const LIMIT = 5;

let app: TestApp | undefined;

afterEach(async () => {
  await app?.close();
  app = undefined;
});

async function startLimited(env: Readonly<Record<string, string>> = {}): Promise<TestApp> {
  app = await startApp({ RATE_LIMIT_PER_MINUTE: String(LIMIT), ...env });
  return app;
}

const REFUSED: readonly (readonly [what: string, method: string, path: string, RequestOptions])[] =
  [
    ['an unknown path', 'GET', '/v1/nowhere', {}],
    ['a path that no route can have', 'GET', '/docs//x', {}],
    ['a file that does not exist', 'GET', '/docs/nothing.js', {}],
    ['a method that the path does not have', 'DELETE', '/v1/orders', {}],
    ['an Accept that excludes all types', 'GET', '/v1/users', { headers: { Accept: 'image/png' } }],
    ['broken percent-encoding in the path', 'GET', '/v1/orders/%ff', {}],
    ['broken percent-encoding in the query', 'GET', '/v1/orders?x=%ff', {}],
    ['broken JSON', 'POST', '/v1/sessions', { body: '{' }],
    ['a body that is too large', 'POST', '/v1/sessions', { body: 'x'.repeat(300 * 1_024) }],
    ['another media type', 'POST', '/v1/sessions', { headers: { 'Content-Type': 'text/plain' } }],
    ['another spelling of a probe', 'GET', '/health/%6Cive', {}],
    ['no token', 'GET', '/v1/users/me', {}],
    ['a token without the form', 'GET', '/v1/users/me', { token: 'hf_nonsense' }],
  ];

describe('a refused request counts for its address:', () => {
  let node: TestApp;
  let clients = 0;

  beforeAll(async () => {
    node = await startApp({ RATE_LIMIT_PER_MINUTE: String(LIMIT), TRUST_PROXY: '127.0.0.1' });
  });
  afterAll(() => node.close());

  it.each(REFUSED)('%s', async (_, method, path, options) => {
    const address = `192.0.2.${++clients}`;
    const call = (...[verb, url, { headers, ...rest } = {}]: Parameters<TestApp['call']>) =>
      node.call(verb, url, { ...rest, headers: { ...headers, 'X-Forwarded-For': address } });

    const statuses: number[] = [];
    for (let count = 0; count <= LIMIT; count++) {
      const { status } = await call(method, path, { body: undefined, ...options });
      statuses.push(status);
    }
    expect(statuses.slice(0, LIMIT).every((status) => status >= 400 && status < 429)).toBe(true);
    expect(statuses.at(-1)).toBe(429);
    expectProblem(await call('GET', '/v1/users/me'), 429, 'rate-limited');
  });

  it.each([
    ['bytes that are not HTTP', 'nonsense\r\n\r\n'],
    ['CONNECT', 'CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['an unknown transfer coding', 'GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n'],
  ])('%s', async (_, bytes) => {
    const node = await startLimited();
    for (let count = 0; count < LIMIT; count++) await node.sendRaw(bytes);
    expectProblem(await node.call('GET', '/v1/users/me'), 429, 'rate-limited');
  });

  it('bytes that are not HTTP from a trusted proxy count for nobody', async () => {
    const node = await startLimited({ TRUST_PROXY: '127.0.0.1' });
    for (let count = 0; count <= LIMIT; count++) await node.sendRaw('nonsense\r\n\r\n');
    expectProblem(await node.call('GET', '/v1/users/me'), 401, 'unauthenticated');
  });
});

const ORIGIN = 'https://app.example';

it.each([
  ['a preflight of a listed origin', { 'Access-Control-Request-Method': 'GET' }],
  ['OPTIONS of a listed origin without a preflight', {}],
])('%s counts for its address', async (_, fields) => {
  const node = await startLimited({ CORS_ORIGINS: ORIGIN });
  const headers = { Origin: ORIGIN, ...fields };
  const send = (): Promise<Reply> => node.call('OPTIONS', '/v1/users/me', { headers });
  const statuses: number[] = [];
  for (let count = 0; count < LIMIT; count++) statuses.push((await send()).status);
  const refused = await send();
  expect(statuses).toEqual(Array(LIMIT).fill(204));
  expectProblem(refused, 429, 'rate-limited');
  // The page may read why.
  expect(refused.headers.get('access-control-allow-origin')).toBe(ORIGIN);
  expectProblem(await node.call('GET', '/v1/users/me'), 429, 'rate-limited');
});

describe('before the body is read', () => {
  /** Sends the head of a request with a body that never comes. */
  const sendHead = ({ url }: TestApp, head: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect(Number(new URL(url).port), '127.0.0.1', () => socket.write(head));
      socket.setEncoding('latin1').once('data', (text: unknown) => {
        socket.destroy();
        resolve(String(text));
      });
      socket.once('error', reject);
    });
  const headOf = (path: string, authorization: string): string =>
    `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${authorization}` +
    'Content-Length: 1000\r\n\r\n';

  it('a request without a session is 401', async () => {
    const node = await startLimited();
    expect(await sendHead(node, headOf('/v1/orders', ''))).toMatch(/^HTTP\/1\.1 401 /);
  });

  it('a request without the right is 403', async () => {
    const node = await startLimited();
    const { id, token } = await registerUser(node);
    const head = headOf(`/v1/users/${id}/roles`, `Authorization: Bearer ${token}\r\n`);
    expect(await sendHead(node, head.replace('POST', 'PUT'))).toMatch(/^HTTP\/1\.1 403 /);
  });

  it('a request past the limit is 429', async () => {
    const node = await startLimited();
    for (let count = 0; count < LIMIT; count++) await node.call('GET', '/v1/nowhere');
    expect(await sendHead(node, headOf('/v1/sessions', ''))).toMatch(/^HTTP\/1\.1 429 /);
  });
});

describe('unknown tokens', () => {
  /** Sessions that were looked up by their token, in the cache or in PostgreSQL. */
  async function countLookups(node: TestApp): Promise<number> {
    const { text } = await node.call('GET', '/metrics');
    const samples = text
      .split('\n')
      .filter((line) => /^holdfast_cache_requests_total\{.*entity="session"/.test(line));
    return samples.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  async function sendTokens(node: TestApp, tokens: readonly string[]): Promise<number[]> {
    const replies = await Promise.all(
      tokens.map((token) => node.call('GET', '/v1/users/me', { token })),
    );
    return replies.map(({ status }) => status);
  }

  it('are not looked up once their address has sent too many, even all at once', async () => {
    const node = await startLimited();
    const before = await countLookups(node);
    const statuses = await sendTokens(node, Array.from({ length: 100 }, createToken));
    // A request that is looked up may come behind others that have used up the address's limit.
    const lookedUp = statuses.filter((status) => status === 401).length;
    expect(lookedUp).toBeLessThanOrEqual(LIMIT);
    expect(statuses.filter((status) => status === 429)).toHaveLength(100 - lookedUp);
    expect((await countLookups(node)) - before).toBeLessThanOrEqual(LIMIT);
  });

  it('are not looked up without the form, whatever the limit', async () => {
    const node = await startLimited({ RATE_LIMIT_PER_MINUTE: '0' });
    const before = await countLookups(node);
    const guesses = Array.from({ length: 50 }, () => createToken().replace(/.$/, '~'));
    expect(new Set(await sendTokens(node, guesses))).toEqual(new Set([401]));
    expect(await countLookups(node)).toBe(before);
  });

  it('of its address do not lock a user out whose session is in use', async () => {
    const node = await startLimited();
    const { token } = await registerUser(node);
    const first = await node.call('GET', '/v1/users/me', { token });
    await sendTokens(node, Array.from({ length: 3 * LIMIT }, createToken));
    const second = await node.call('GET', '/v1/users/me', { token });
    expect([first.status, second.status]).toEqual([200, 200]);
  });

  it('that turn out to be right do not count for the address', async () => {
    const node = await startLimited();
    const { token, username } = await registerUser(node);
    // As after a restart: this process knows no token.
    const other = await startApp({ RATE_LIMIT_PER_MINUTE: String(LIMIT) }, node.databaseUrl);
    try {
      const tokens = [token];
      expect(await sendTokens(other, tokens)).toEqual([200]);
      const statuses = await sendTokens(other, Array.from({ length: LIMIT }, createToken));
      expect(new Set(statuses)).toEqual(new Set([401]));
      expect(username).toBeDefined();
    } finally {
      await other.close();
    }
  });
});
