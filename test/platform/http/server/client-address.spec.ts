/** The address of a client: no client can choose it, behind trusted proxies or without them. */
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { transformSync } from '@swc/core';
import { networkOf } from '../../../../src/platform/http/server/client-address.js';
import { startApp, type TestApp } from '../../../support/app.js';
import {
  ORDER,
  PASSWORD,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { REPOSITORY } from '../../../support/repository.js';

const LIMIT = 1_000;
const TRUSTED_PROXIES = '127.0.0.1,10.0.0.0/8,2001:db8:aa::/48';

let withoutProxy: TestApp;
let behindProxy: TestApp;
let user: TestUser;

beforeAll(async () => {
  const limited = { RATE_LIMIT_PER_MINUTE: String(LIMIT) };
  withoutProxy = await startApp(limited);
  const trusting = { ...limited, TRUST_PROXY: TRUSTED_PROXIES };
  behindProxy = await startApp(trusting, withoutProxy.databaseUrl);
  user = await registerUser(withoutProxy);
});
afterAll(async () => {
  await behindProxy.close();
  await withoutProxy.close();
});

/** The address that the session of a login shows. */
async function addressOfLogin(
  app: TestApp,
  headers: Record<string, string | string[]>,
): Promise<string> {
  const body = { username: user.username, password: PASSWORD };
  const reply = await app.call('POST', '/v1/sessions', { body, headers });
  expect(reply.status).toBe(201);
  await app.call('DELETE', '/v1/sessions/current', { token: reply.body.token });
  return reply.body.ip as string;
}

describe('without TRUST_PROXY', () => {
  it.each(['192.0.2.1', '127.0.0.2', '::1', 'junk'])(
    'the address is the one of the socket, although headers claim %s',
    async (claim) => {
      const headers = {
        Forwarded: `for=${claim}`,
        'X-Forwarded-For': claim,
        'X-Real-IP': claim,
        'X-Client-IP': claim,
      };
      expect(await addressOfLogin(withoutProxy, headers)).toBe('127.0.0.1');
    },
  );
});

describe('with TRUST_PROXY', () => {
  it.each<[string, string | string[], string]>([
    ['the hop that the trusted proxy saw', '192.0.2.1', '192.0.2.1'],
    ['not the hop that the client claimed', '203.0.113.9, 192.0.2.1', '192.0.2.1'],
    ['the hop before two trusted proxies', '203.0.113.9, 192.0.2.1, 10.1.2.3', '192.0.2.1'],
    ['the first of only trusted proxies', '10.9.9.9, 10.1.2.3', '10.9.9.9'],
    ['the last of two header fields', ['203.0.113.9', '192.0.2.1'], '192.0.2.1'],
    ['canonical IPv6', '2001:DB8:0:0::0001', '2001:db8::1'],
    ['the IPv6 hop before a trusted network', '2001:db8::1, 2001:db8:aa::7', '2001:db8::1'],
    ['IPv4 mapped into IPv6', '::ffff:192.0.2.1', '192.0.2.1'],
    ['IPv4 mapped into IPv6, in hexadecimal', '::FFFF:c000:201', '192.0.2.1'],
    ['the hop before a mapped trusted proxy', '192.0.2.1, ::ffff:10.1.2.3', '192.0.2.1'],
    ['without a port', '192.0.2.1:4711', '192.0.2.1'],
    ['IPv6 without a port', '[2001:db8::1]:4711', '2001:db8::1'],
    ['without a zone', 'fe80::1%eth0', 'fe80::1'],
    ['the proxy if the hop is not an address', '192.0.2.1, junk', '127.0.0.1'],
    ['the proxy if the hop is a number', '192.0.2.1, 3232235777', '127.0.0.1'],
    ['the proxy if the hop is "unknown"', 'unknown', '127.0.0.1'],
    ['the proxy if the hop has control characters', '\u00a0192.0.2.1"<x>', '127.0.0.1'],
    ['the outer proxy if its hop is not an address', 'junk, 10.1.2.3', '10.1.2.3'],
    ['the proxy if the header is empty', '', '127.0.0.1'],
    ['the proxy if the header has only commas', ',,,', '127.0.0.1'],
    ['the last of 1000 hops', `${'203.0.113.9,'.repeat(1_000)}192.0.2.1`, '192.0.2.1'],
  ])('the address is %s', async (_, forwardedFor, address) => {
    const headers = { 'X-Forwarded-For': forwardedFor };
    expect(await addressOfLogin(behindProxy, headers)).toBe(address);
  });

  it('the address is the one of the proxy without the header', async () => {
    expect(await addressOfLogin(behindProxy, {})).toBe('127.0.0.1');
  });
});

describe('the rate limit', () => {
  /** Requests left after one request with this header. */
  async function leftAfter(app: TestApp, forwardedFor: string): Promise<number> {
    const headers = { 'X-Forwarded-For': forwardedFor };
    const reply = await app.call('GET', '/v1/users/me', { headers });
    return Number(/r=(\d+)/.exec(reply.headers.get('ratelimit') ?? '')?.[1]);
  }

  it('without TRUST_PROXY counts all claims for the same address', async () => {
    const first = await leftAfter(withoutProxy, '198.51.100.1');
    expect(await leftAfter(withoutProxy, '198.51.100.2')).toBe(first - 1);
  });

  it('with TRUST_PROXY counts each client alone', async () => {
    const clients = ['198.51.100.11', '198.51.100.12', '2001:db8:1:3::1'];
    const left = await Promise.all(clients.map((client) => leftAfter(behindProxy, client)));
    expect(left).toEqual([LIMIT - 1, LIMIT - 1, LIMIT - 1]);
  });

  it.each([
    [
      'every spelling of an IPv4 address',
      [
        '198.51.100.1',
        '203.0.113.9, 198.51.100.1',
        '::ffff:198.51.100.1',
        '198.51.100.1:1',
        '198.51.100.1:2',
      ],
    ],
    [
      'every address of an IPv6 /64',
      ['2001:db8:1:2::1', '2001:db8:1:2:ffff::9', '2001:0db8:0001:0002::'],
    ],
  ])('with TRUST_PROXY counts %s as one client', async (_, spellings) => {
    const left: number[] = [];
    for (const spelling of spellings) left.push(await leftAfter(behindProxy, spelling));
    expect(left).toEqual(spellings.map((__, index) => LIMIT - 1 - index));
  });
});

describe('X-Forwarded-Host, X-Forwarded-Proto and Host', () => {
  const EVIL = {
    'X-Forwarded-Host': 'evil.example',
    'X-Forwarded-Proto': 'https',
    Host: 'evil.example',
  };
  const NODES: [string, () => TestApp][] = [
    ['without TRUST_PROXY', () => withoutProxy],
    ['with TRUST_PROXY', () => behindProxy],
  ];

  it.each(NODES)('%s do not appear in Location and Link', async (_, node) => {
    const { token } = user;
    const placed = await node().call('POST', '/v1/orders', {
      token,
      body: ORDER,
      headers: { ...EVIL, 'Idempotency-Key': randomUUID() },
    });
    expect(placed.headers.get('location')).toBe(`/v1/orders/${placed.body.id}`);
    await placeOrder(node(), token);
    const list = await node().call('GET', '/v1/orders?limit=1', { token, headers: EVIL });
    expect(list.headers.get('link')).toMatch(/^<\/v1\/orders\?/);
  });

  it.each(NODES)('%s do not appear in pages, and turn no HSTS on', async (_, node) => {
    const paths = ['/docs', '/docs/openapi.json', '/problems', '/v1/nothing', '/health/ready'];
    const replies = await Promise.all(
      paths.map((path) => node().call('GET', path, { headers: EVIL })),
    );
    const texts = replies.map(({ headers, text }) => JSON.stringify([...headers]) + text);
    expect(texts.filter((text) => text.includes('evil.example'))).toEqual([]);
    expect(replies.filter(hasHsts)).toEqual([]);
  });

  const hasHsts = ({ headers }: Reply): boolean => headers.has('strict-transport-security');
});

describe('networkOf', () => {
  it.each(['192.0.2.7', '::ffff:192.0.2.7', '::ffff:c000:207', '0:0:0:0:0:FFFF:192.0.2.7'])(
    'returns the IPv4 address in one form for %s',
    (ip) => {
      expect(networkOf(ip)).toBe('192.0.2.7');
    },
  );

  it.each([
    '2001:db8:0:1::',
    '2001:DB8::1:0:0:0:9',
    '2001:0db8:0000:0001:ffff::1%eth0',
    '2001:db8:0:1:2:3:4:5',
  ])('returns the /64 in one form for %s', (ip) => {
    expect(networkOf(ip)).toBe('2001:db8:0:1::/64');
  });

  it.each([
    ['::1', '0:0:0:0::/64'],
    ['2001:db8:0:2::', '2001:db8:0:2::/64'],
  ])('returns another /64 for %s: %s', (ip, network) => {
    expect(networkOf(ip)).toBe(network);
  });
});

it('only client-address.ts and config.ts read the address of a request', () => {
  const root = new URL('src/', REPOSITORY);
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
    (name) => name.endsWith('.ts') && name !== 'config.ts',
  );
  const readsAddress = (name: string): boolean =>
    /remoteAddress|x-forwarded|x-real-ip|\brequest\.ips?\b|\brequest\.host\b/i.test(
      withoutComments(readFileSync(new URL(name, root), 'utf8')),
    );
  expect(files.length).toBeGreaterThan(60);
  expect(files.filter(readsAddress)).toEqual([]);
});

function withoutComments(source: string): string {
  const { code } = transformSync(source, {
    jsc: {
      target: 'es2022',
      parser: { syntax: 'typescript', decorators: true },
      minify: { compress: false, mangle: false, format: { comments: false } },
    },
    minify: true,
  });
  return code;
}
