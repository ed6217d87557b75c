/**
 * One caller or address against all others: what an attacker does, and how the service is prepared
 * for it. An attack runs in a process of its own (attacker.ts), so that it disturbs only the
 * service, until it is told to stop.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { requestBody, sendRequest } from '../../support/http-client.js';

/** Counts of what the attacker saw, by a name for people. */
export type Outcome = Record<string, number>;

export interface AttackContext {
  readonly url: string;
  readonly signal: AbortSignal;
  readonly outcome: Outcome;
}

export interface Attack {
  readonly name: string;
  /** The environment of the service besides that of every attack. */
  readonly env?: Readonly<Record<string, string>>;
  /** @returns the attack, which ends soon after the signal */
  readonly prepare: (url: string) => Promise<(context: AttackContext) => Promise<void>>;
}

export const PASSWORD = 'a bench made of old oak';
const OPEN_ORDER = { currency: 'EUR', items: [{ sku: 'A', name: 'A', quantity: 1, unitPrice: 1 }] };
/** 115 KB as JSON. */
const LARGE_ORDER = {
  currency: 'EUR',
  items: Array.from({ length: 100 }, (_, index) => ({
    sku: `LAMP-${index}`,
    name: '灯'.repeat(200),
    quantity: 1,
    unitPrice: 1,
  })),
  note: 'n'.repeat(500),
};
const LARGE_ORDERS = 100;
const PIPELINED = 100;
const SILENT_CONNECTIONS = 60;
const VERSIONS = 900;
const REPLAY_CONNECTIONS = 20;
const REGISTRATIONS_PER_SECOND = 6;
const REGISTERING_CONNECTIONS = 70;
const KNOWN_LOGIN_PAUSE_MS = 300;
const RANDOM_TOKENS = 3_000;
const TOKEN_CONNECTIONS = 50;
const CONNECTIONS = 9_950;
const REFUSED_CONNECTIONS = 32;
const UPLOADING_ADDRESSES = 4;
const UPLOADS = 500;
const PROBING_CONNECTIONS = 300;
const EVENT_CONNECTIONS = 16;
const LARGE_EVENTS = 100;

const count = (outcome: Outcome, name: string): void => {
  outcome[name] = (outcome[name] ?? 0) + 1;
};

/** Repeats the work on so many connections until the signal. Errors are counted. */
async function repeat(
  { signal, outcome }: AttackContext,
  parallel: number,
  work: () => Promise<string>,
): Promise<void> {
  const client = async (): Promise<void> => {
    while (!signal.aborted) {
      const result = await work().catch((error: NodeJS.ErrnoException) => error.code ?? 'error');
      count(outcome, result);
    }
  };
  await Promise.all(Array.from({ length: parallel }, client));
}

const statusOf = async (...request: Parameters<typeof sendRequest>): Promise<string> =>
  String((await sendRequest(...request)).status);

/** @returns the token of a new user's session */
export async function registerAttacker(url: string): Promise<string> {
  const username = `u-${randomUUID().slice(0, 20)}`;
  const credentials = { username, password: PASSWORD };
  const body = { ...credentials, email: `${username}@example.com` };
  await requestBody(`${url}/v1/users`, 'POST', { body });
  const session = await requestBody(`${url}/v1/sessions`, 'POST', { body: credentials });
  return (session as { token: string }).token;
}

async function placeOrder(url: string, token: string, body: object): Promise<string> {
  const headers = { 'Idempotency-Key': randomUUID() };
  const order = await requestBody(`${url}/v1/orders`, 'POST', { token, body, headers });
  return (order as { id: string }).id;
}

/** Changes an order until it has so many versions. */
async function changeOrder(
  url: string,
  token: string,
  versions: number,
  change: (version: number) => object,
): Promise<void> {
  const headers = { 'If-Match': '*' };
  for (let version = 1; version < versions; version++) {
    await requestBody(url, 'PATCH', { token, body: change(version), headers });
  }
}

async function prepareLargeOrders(url: string): Promise<string> {
  const token = await registerAttacker(url);
  for (let number = 0; number < LARGE_ORDERS; number++) await placeOrder(url, token, LARGE_ORDER);
  return token;
}

const listRequest = (token: string): string =>
  `GET /v1/orders?limit=100 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\n\r\n`;

function openSocket(url: string): Socket {
  const { hostname, port } = new URL(url);
  return connect(Number(port), hostname).on('error', () => undefined);
}

/** Sends the requests in one write, and reads until the connection ends or falls silent. */
const pipeline = (url: string, requests: string): Promise<string> =>
  new Promise((resolve) => {
    const socket = openSocket(url);
    socket.setTimeout(5_000, () => socket.destroy());
    socket.on('data', () => undefined).on('close', () => resolve('connections ended'));
    socket.write(requests);
  });

export const ATTACKS: readonly Attack[] = [
  {
    name: 'pipelined lists of 115 KB orders, 256 MB heap',
    env: { NODE_OPTIONS: '--max-old-space-size=256' },
    async prepare(url) {
      const token = await prepareLargeOrders(url);
      return (context) =>
        repeat(context, 4, () => pipeline(url, listRequest(token).repeat(PIPELINED)));
    },
  },
  {
    name: '60 connections that do not read their lists',
    async prepare(url) {
      const token = await prepareLargeOrders(url);
      return async ({ signal, outcome }) => {
        const sockets = Array.from({ length: SILENT_CONNECTIONS }, () => {
          const socket = openSocket(url).pause();
          socket.on('close', () => count(outcome, 'connections ended'));
          socket.write(listRequest(token).repeat(PIPELINED));
          return socket;
        });
        while (!signal.aborted) await sleep(100);
        for (const socket of sockets) socket.removeAllListeners('close').destroy();
      };
    },
  },
  {
    name: `reads of version ${VERSIONS} of an order`,
    env: { RATE_LIMIT_PER_MINUTE: '0' },
    async prepare(url) {
      const token = await registerAttacker(url);
      const id = await placeOrder(url, token, OPEN_ORDER);
      const change = (version: number): object => ({ note: `change ${version}` });
      await changeOrder(`${url}/v1/orders/${id}`, token, VERSIONS, change);
      const past = `${url}/v1/orders/${id}?at=${VERSIONS}`;
      return (context) =>
        repeat(context, REPLAY_CONNECTIONS, () => statusOf(past, 'GET', { token }));
    },
  },
  {
    name: `${REGISTRATIONS_PER_SECOND} registrations a second`,
    prepare: () =>
      Promise.resolve(async ({ url, signal, outcome }) => {
        while (!signal.aborted) {
          void statusOf(`${url}/v1/users`, 'POST', { body: newUser() }).then(
            (status) => count(outcome, status),
            () => count(outcome, 'error'),
          );
          await sleep(1_000 / REGISTRATIONS_PER_SECOND);
        }
      }),
  },
  registeringFlood('no rate limit', { RATE_LIMIT_PER_MINUTE: '0' }),
  // A proxy that forwards both: they have addresses of their own.
  registeringFlood('the default rate limit', { TRUST_PROXY: '127.0.0.1' }),
  {
    name: `${RANDOM_TOKENS} random tokens`,
    prepare: (url) => {
      let left = RANDOM_TOKENS;
      return Promise.resolve((context) =>
        repeat(context, TOKEN_CONNECTIONS, async () => {
          if (left-- <= 0) {
            await sleep(50);
            return 'none left';
          }
          const token = `hf_${randomBytes(32).toString('base64url')}`;
          return statusOf(`${url}/v1/users/me`, 'GET', { token });
        }),
      );
    },
  },
  {
    name: `${CONNECTIONS} connections of one address`,
    prepare: (url) =>
      Promise.resolve(async ({ signal, outcome }) => {
        const sockets: Socket[] = [];
        while (sockets.length < CONNECTIONS && !signal.aborted) {
          const socket = openSocket(url);
          socket.on('close', () => count(outcome, 'connections ended'));
          sockets.push(socket);
          if (sockets.length % 200 === 0) await sleep(10);
        }
        outcome['connections opened'] = sockets.length;
        while (!signal.aborted) await sleep(100);
        for (const socket of sockets) socket.removeAllListeners('close').destroy();
      }),
  },
  {
    name: `${UPLOADING_ADDRESSES} addresses with ${UPLOADS} uploads each that never end`,
    env: { RATE_LIMIT_PER_MINUTE: '0' },
    prepare: (url) => {
      const { port } = new URL(url);
      const bytes =
        'POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n' +
        'Content-Length: 100\r\n\r\n{';
      return Promise.resolve(async ({ signal, outcome }) => {
        const sockets: Socket[] = [];
        for (let number = 0; number < UPLOADING_ADDRESSES * UPLOADS; number++) {
          const localAddress = `127.0.1.${1 + (number % UPLOADING_ADDRESSES)}`;
          const target = { port: Number(port), host: '127.0.0.1', localAddress };
          const socket = connect({ ...target, allowHalfOpen: true });
          socket.on('error', () => undefined).on('data', () => count(outcome, 'answers'));
          socket.write(bytes);
          sockets.push(socket);
          if (number % 200 === 0) await sleep(10);
        }
        while (!signal.aborted) await sleep(100);
        for (const socket of sockets) socket.destroy();
      });
    },
  },
  ...['/metrics', '/health/ready'].map((path): Attack => ({
    name: `${path} on ${PROBING_CONNECTIONS} connections`,
    prepare: (url) =>
      Promise.resolve((context) =>
        repeat(context, PROBING_CONNECTIONS, () => statusOf(`${url}${path}`, 'GET')),
      ),
  })),
  {
    name: `pages of large events on ${EVENT_CONNECTIONS} connections`,
    env: { RATE_LIMIT_PER_MINUTE: '0' },
    async prepare(url) {
      const token = await registerAttacker(url);
      const id = await placeOrder(url, token, LARGE_ORDER);
      const change = (): object => ({ items: LARGE_ORDER.items });
      await changeOrder(`${url}/v1/orders/${id}`, token, LARGE_EVENTS, change);
      const events = `${url}/v1/orders/${id}/events?limit=100`;
      return (context) =>
        repeat(context, EVENT_CONNECTIONS, () => statusOf(events, 'GET', { token }));
    },
  },
  {
    name: 'broken JSON',
    prepare: (url) =>
      Promise.resolve((context) =>
        repeat(context, REFUSED_CONNECTIONS, () =>
          statusOf(`${url}/v1/sessions`, 'POST', {
            body: '{',
            headers: { 'Content-Type': 'application/json' },
          }),
        ),
      ),
  },
];

/** A known device logs in meanwhile, from another address where a proxy is trusted. */
function registeringFlood(what: string, env: Readonly<Record<string, string>>): Attack {
  return {
    name: `${REGISTERING_CONNECTIONS} registering connections, ${what}, and a known device`,
    env,
    async prepare(url) {
      const username = `known-${randomUUID().slice(0, 8)}`;
      const body = { username, email: `${username}@example.com`, password: PASSWORD };
      await requestBody(`${url}/v1/users`, 'POST', { body });
      const login = { body: { username, password: PASSWORD } };
      const first = await sendRequest(`${url}/v1/sessions`, 'POST', login);
      const cookie = (first.headers.get('set-cookie') ?? '').split(';')[0] ?? '';
      return async (context) => {
        const headers = { 'X-Forwarded-For': '192.0.2.1' };
        const registering = repeat(context, REGISTERING_CONNECTIONS, async () => {
          const status = await statusOf(`${url}/v1/users`, 'POST', { body: newUser(), headers });
          return `registrations ${status}`;
        });
        while (!context.signal.aborted) {
          const status = await statusOf(`${url}/v1/sessions`, 'POST', {
            ...login,
            headers: { Cookie: cookie, 'X-Forwarded-For': '192.0.2.2' },
          }).catch(() => 'error');
          count(context.outcome, `known device ${status}`);
          await sleep(KNOWN_LOGIN_PAUSE_MS);
        }
        await registering;
      };
    },
  };
}

/** With a password whose strength is hard to judge: every character can stand for another. */
function newUser(): object {
  const username = `r-${randomUUID().slice(0, 20)}`;
  const letters = 'a@4e3i1!o0s5$';
  const password = [...randomBytes(128)].map((byte) => letters[byte % letters.length]).join('');
  return { username, email: `${username}@example.com`, password };
}
