/**
 * Whose address a request has, over real sockets: no client chooses its own. And origins: without a setting there is no CORS,
 * and no answer says a word of it.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { ORDER, PASSWORD, person, type Person, placeOrder } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

const LIMIT = 1_000;
const env = (TRUST_PROXY?: string): Record<string, string> => ({
  RATE_LIMIT_PER_MINUTE: String(LIMIT),
  ...(TRUST_PROXY ? { TRUST_PROXY } : {}),
});
const leftOf = ({ headers }: Reply): number =>
  Number(/r=(\d+)/.exec(headers.get('ratelimit') ?? '')?.[1]);

describe('a client’s address', () => {
  let alone: TestApp;
  let behind: TestApp;
  let someone: Person;

  beforeAll(async () => {
    alone = await startApp(env());
    behind = await startApp(env('127.0.0.1,10.0.0.0/8,2001:db8:aa::/48'), alone.databaseUrl);
    someone = await person(alone);
  });
  afterAll(async () => {
    await behind.close();
    await alone.close();
  });

  /** The address that a login's session shows. */
  async function seenBy(
    app: TestApp,
    forwarded?: string | string[],
    more: Record<string, string> = {},
  ): Promise<string> {
    const headers = {
      ...(forwarded === undefined ? {} : { 'X-Forwarded-For': forwarded }),
      ...more,
    };
    const body = { username: someone.username, password: PASSWORD };
    const reply = await app.call('POST', '/v1/sessions', { body, headers });
    expect(reply.status).toBe(201);
    await app.call('DELETE', '/v1/sessions/current', { token: reply.body.token });
    return reply.body.ip as string;
  }

  it('is the socket’s without TRUST_PROXY, whatever it claims', async () => {
    for (const claim of ['192.0.2.1', '127.0.0.2', '::1', 'junk'])
      expect(
        await seenBy(alone, claim, {
          Forwarded: `for=${claim}`,
          'X-Real-IP': claim,
          'X-Client-IP': claim,
        }),
      ).toBe('127.0.0.1');
  });

  const CHAINS: readonly (readonly [string, string | string[] | undefined, string])[] = [
    ['no header', undefined, '127.0.0.1'],
    ['what the listed proxy saw', '192.0.2.1', '192.0.2.1'],
    ['not what the client claimed to it', '203.0.113.9, 192.0.2.1', '192.0.2.1'],
    ['through a second listed proxy', '203.0.113.9, 192.0.2.1, 10.1.2.3', '192.0.2.1'],
    ['through listed proxies alone', '10.9.9.9, 10.1.2.3', '10.9.9.9'],
    ['in a field sent twice', ['203.0.113.9', '192.0.2.1'], '192.0.2.1'],
    ['IPv6', '2001:DB8:0:0::0001', '2001:db8::1'],
    ['IPv6 through a listed network', '2001:db8::1, 2001:db8:aa::7', '2001:db8::1'],
    ['IPv4 in IPv6', '::ffff:192.0.2.1', '192.0.2.1'],
    ['IPv4 in IPv6, in hexadecimal', '::FFFF:c000:201', '192.0.2.1'],
    ['a listed proxy in IPv6', '192.0.2.1, ::ffff:10.1.2.3', '192.0.2.1'],
    ['with a port', '192.0.2.1:4711', '192.0.2.1'],
    ['IPv6 with a port', '[2001:db8::1]:4711', '2001:db8::1'],
    ['with a zone', 'fe80::1%eth0', 'fe80::1'],
    ['what is no address is not believed', '192.0.2.1, junk', '127.0.0.1'],
    ['nor a number', '192.0.2.1, 3232235777', '127.0.0.1'],
    ['nor "unknown"', 'unknown', '127.0.0.1'],
    ['nor what a terminal would act on', '\u00a0192.0.2.1"<x>', '127.0.0.1'],
    ['nor behind a listed proxy', 'junk, 10.1.2.3', '10.1.2.3'],
    ['an empty field', '', '127.0.0.1'],
    ['commas alone', ',,,', '127.0.0.1'],
    ['a thousand hops', `${'203.0.113.9,'.repeat(1_000)}192.0.2.1`, '192.0.2.1'],
  ];
  it.each(CHAINS)('with TRUST_PROXY: %s', async (_, forwarded, address) => {
    expect(await seenBy(behind, forwarded)).toBe(address);
  });

  it('is what the limit counts: no header makes a new count, and each client behind the proxy has its own', async () => {
    const ask = (app: TestApp, forwarded: string): Promise<Reply> =>
      app.call('GET', '/v1/users/me', { headers: { 'X-Forwarded-For': forwarded } });
    const first = leftOf(await ask(alone, '198.51.100.1'));
    expect(leftOf(await ask(alone, '198.51.100.2'))).toBe(first - 1);

    expect(leftOf(await ask(behind, '198.51.100.1'))).toBe(LIMIT - 1);
    expect(leftOf(await ask(behind, '198.51.100.2'))).toBe(LIMIT - 1);
    const same = [
      '198.51.100.1',
      '203.0.113.9, 198.51.100.1',
      '::ffff:198.51.100.1',
      '198.51.100.1:1',
      '198.51.100.1:2',
    ];
    for (const [index, forwarded] of same.entries())
      expect(leftOf(await ask(behind, forwarded))).toBe(LIMIT - 2 - index);
    const network = ['2001:db8:1:2::1', '2001:db8:1:2:ffff::9', '2001:0db8:0001:0002::'];
    for (const [index, forwarded] of network.entries())
      expect(leftOf(await ask(behind, forwarded))).toBe(LIMIT - 1 - index);
    expect(leftOf(await ask(behind, '2001:db8:1:3::1'))).toBe(LIMIT - 1);
  });

  it('X-Forwarded-Host and -Proto, trusted or not, and Host itself lead no link elsewhere', async () => {
    const evil = {
      'X-Forwarded-Host': 'evil.example',
      'X-Forwarded-Proto': 'https',
      Host: 'evil.example',
    };
    for (const app of [alone, behind]) {
      const headers = { ...evil, 'Idempotency-Key': crypto.randomUUID() };
      const placed = await app.call('POST', '/v1/orders', {
        token: someone.token,
        body: ORDER,
        headers,
      });
      expect(placed.headers.get('location')).toBe(`/v1/orders/${placed.body.id}`);
      await placeOrder(app, someone.token);
      const list = await app.call('GET', '/v1/orders?limit=1', {
        token: someone.token,
        headers: evil,
      });
      expect(list.headers.get('link')).toMatch(/^<\/v1\/orders\?/);
      for (const path of [
        '/docs',
        '/docs/openapi.json',
        '/problems',
        '/v1/nothing',
        '/health/ready',
      ]) {
        const reply = await app.call('GET', path, { headers: evil });
        expect(JSON.stringify([...reply.headers]) + reply.text).not.toContain('evil.example');
        expect(reply.headers.get('strict-transport-security')).toBeNull();
      }
    }
  });

  it('is the only one to be believed: nothing reads the socket or the headers for it elsewhere', async () => {
    const { readdirSync, readFileSync } = await import('node:fs');
    const root = new URL('../../src/', import.meta.url);
    const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
      (name) => name.endsWith('.ts') && name !== 'config.ts',
    );
    const using = files.filter((name) =>
      /remoteAddress|x-forwarded|x-real-ip|\brequest\.ips?\b|\brequest\.host\b/i.test(
        readFileSync(new URL(name, root), 'utf8'),
      ),
    );
    expect(using).toEqual([]);
    expect(files.length).toBeGreaterThan(60);
  });
});

describe('other origins', () => {
  let app: TestApp;
  let someone: Person;
  beforeAll(async () => {
    app = await startApp();
    someone = await person(app);
  });
  afterAll(() => app.close());
  const Origin = 'https://elsewhere.example';
  const corsOf = ({ headers }: Reply): string[] =>
    [...headers.keys()].filter((name) =>
      /^access-control-|^timing-allow|^cross-origin-embedder/.test(name),
    );

  it('are told nothing: no answer has a header of CORS', async () => {
    for (const origin of [Origin, 'null', app.url]) {
      const headers = { Origin: origin, 'Idempotency-Key': crypto.randomUUID() };
      const replies = [
        await app.call('GET', '/v1/users/me', { token: someone.token, headers }),
        await app.call('GET', '/v1/users/me', { headers }),
        await app.call('POST', '/v1/orders', { token: someone.token, headers, body: ORDER }),
        await app.call('POST', '/v1/sessions', { headers, body: {} }),
        await app.call('GET', '/nowhere', { headers }),
        await app.call('GET', '/docs/openapi.json', { headers }),
        await app.call('GET', '/health/live', { headers }),
      ];
      expect(replies.map(({ status }) => status)).toEqual([200, 401, 201, 400, 404, 200, 200]);
      expect(replies.flatMap(corsOf)).toEqual([]);
      for (const { headers: got } of replies)
        expect(got.get('cross-origin-resource-policy')).toBe('same-origin');
    }
  });

  it('get from a preflight the methods that there are, and no leave to use them', async () => {
    const preflight = {
      Origin,
      'Access-Control-Request-Method': 'PUT',
      'Access-Control-Request-Headers': 'authorization',
    };
    const known = await app.call('OPTIONS', `/v1/users/${someone.id}/password`, {
      headers: preflight,
    });
    expect([known.status, known.headers.get('allow'), corsOf(known)]).toEqual([
      204,
      'PUT, OPTIONS',
      [],
    ]);
    const unknown = await app.call('OPTIONS', '/v1/nothing', { headers: preflight });
    expectProblem(unknown, 404, 'not-found');
    expect(corsOf(unknown)).toEqual([]);
  });

  it('cannot ride on a session: no cookie is set or read, the token is in a header that a form cannot send', async () => {
    const body = { username: someone.username, password: PASSWORD };
    const login = await app.call('POST', '/v1/sessions', { body });
    expect(login.headers.get('set-cookie')).toBeNull();
    const { token } = login.body as { token: string };
    const headers = { Cookie: `token=${token}; Authorization=Bearer ${token}` };
    expectProblem(await app.call('GET', '/v1/users/me', { headers }), 401, 'unauthenticated');
    expectProblem(
      await app.call('DELETE', '/v1/sessions/current', {
        headers: { 'X-Authorization': `Bearer ${token}` },
      }),
      401,
      'unauthenticated',
    );
    const form = {
      'Content-Type': 'text/plain',
      Authorization: `Bearer ${token}`,
      'Idempotency-Key': 'x',
    };
    expectProblem(
      await app.call('POST', '/v1/orders', { headers: form, body: JSON.stringify(ORDER) }),
      415,
      'unsupported-media-type',
    );
  });
});
