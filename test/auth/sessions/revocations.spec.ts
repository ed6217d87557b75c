/**
 * Rights that end while they are used, on two nodes, with Redis reachable, flushed, gone, or out of
 * reach of one node. Once the end is acknowledged, no node may accept a request that begins later,
 * and no order of an ended session may be committed.
 *
 * `HOLDFAST_REVOCATIONS=500 npm test -- test/auth/sessions/revocations` runs 500 rounds instead of
 * a few; HOLDFAST_SEED repeats a run.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import {
  SessionsService,
  type StartedSession,
} from '../../../src/auth/sessions/sessions.service.js';
import { ReadGate } from '../../../src/platform/cache/read/read-gate.js';
import { DatabaseInvalidations } from '../../../src/platform/cache/write/database-invalidations.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { logInAsAdmin, ORDER, PASSWORD, uniqueUsername } from '../../support/factories.js';
import { Gate } from '../../support/gate.js';
import type { Reply, RequestOptions } from '../../support/http-client.js';
import { Random } from '../../support/random.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../support/redis.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

const ROUNDS = Number(process.env.HOLDFAST_REVOCATIONS ?? 7);
const SEED = Number(process.env.HOLDFAST_SEED ?? Date.now() % 1_000_000);
/** A round with Redis out of reach takes up to 3 s on an idle machine. */
const TIMEOUT_MS = 60_000 + ROUNDS * 15_000;
const SESSIONS_PER_ROUND = 3;
/** Rejections that each client of an ended session must see after the end. */
const REJECTIONS_PER_CLIENT = 2;
/** A route that needs the role support. */
const SUMMARY = '/v1/orders/summary?from=2026-01-01&to=2026-01-02';

/** A right that ends: whose request ends it, and which sessions lose it. */
interface Ending {
  readonly by: 'first session' | 'last session' | 'admin';
  /** Status of the request. */
  readonly status: 200 | 204;
  /** Status of later requests of the ended sessions. */
  readonly rejection: 401 | 403;
  readonly ends: (session: number) => boolean;
  readonly request: (ids: {
    userId: string;
    firstSessionId: string;
  }) => readonly [method: string, path: string, options?: RequestOptions];
}

const LAST_SESSION = SESSIONS_PER_ROUND - 1;
const isFirst = (session: number): boolean => session === 0;
const isNotLast = (session: number): boolean => session !== LAST_SESSION;
const isAny = (): boolean => true;

const END_BY_ID: Ending = {
  by: 'last session',
  status: 204,
  rejection: 401,
  ends: isFirst,
  request: ({ firstSessionId }) => ['DELETE', `/v1/sessions/${firstSessionId}`],
};
const TAKE_ROLE: Ending = {
  by: 'admin',
  status: 200,
  rejection: 403,
  ends: isAny,
  request: ({ userId }) => ['PUT', `/v1/users/${userId}/roles`, { body: { roles: ['user'] } }],
};
const ENDINGS: Readonly<Record<string, Ending>> = {
  'log out': {
    by: 'first session',
    status: 204,
    rejection: 401,
    ends: isFirst,
    request: () => ['DELETE', '/v1/sessions/current'],
  },
  'end a session by id': END_BY_ID,
  'end all sessions': {
    by: 'first session',
    status: 204,
    rejection: 401,
    ends: isAny,
    request: () => ['DELETE', '/v1/sessions'],
  },
  'end all other sessions': {
    by: 'last session',
    status: 204,
    rejection: 401,
    ends: isNotLast,
    request: () => ['DELETE', '/v1/sessions?keep=current'],
  },
  'change the password': {
    by: 'last session',
    status: 204,
    rejection: 401,
    ends: isNotLast,
    request: ({ userId }) => [
      'PUT',
      `/v1/users/${userId}/password`,
      { body: { currentPassword: PASSWORD, newPassword: 'eleven tall ships at anchor' } },
    ],
  },
  'delete the user': {
    by: 'last session',
    status: 204,
    rejection: 401,
    ends: isAny,
    request: ({ userId }) => ['DELETE', `/v1/users/${userId}`],
  },
  'take the role': TAKE_ROLE,
};

const DISTURBANCES = [
  'none',
  'first node cut off',
  'second node cut off',
  'both nodes cut off',
  'Redis flushed',
] as const;
type Disturbance = (typeof DISTURBANCES)[number];

interface RoundPlan {
  readonly name: string;
  readonly ending: Ending;
  readonly disturbance: Disturbance;
}

const random = new Random(SEED);
let redis: RedisServer;
let links: [TcpProxy, TcpProxy];
let nodes: [TestApp, TestApp];
let database: pg.Client;
let admin: string;

beforeAll(async () => {
  redis = await startRedis();
  links = [
    await TcpProxy.start(redis.port, random.fork('first')),
    await TcpProxy.start(redis.port, random.fork('second')),
  ];
  const start = (link: TcpProxy, databaseUrl?: string): Promise<TestApp> =>
    startApp({ REDIS_URL: `redis://127.0.0.1:${link.port}` }, databaseUrl);
  const first = await start(links[0]);
  nodes = [first, await start(links[1], first.databaseUrl)];
  database = new pg.Client({ connectionString: first.databaseUrl });
  await database.connect();
  admin = await logInAsAdmin(first);
});
afterEach(() => links.forEach((link) => link.heal()));
afterAll(async () => {
  await database.end();
  await nodes[1].close();
  await nodes[0].close();
  links.forEach((link) => link.close());
  await redis.stop();
});

async function register(): Promise<{ id: string; username: string }> {
  const username = uniqueUsername();
  const body = { username, email: `${username}@example.com`, password: PASSWORD };
  const reply = await nodes[0].call('POST', '/v1/users', { body });
  expect(reply.status).toBe(201);
  return { id: reply.body.id as string, username };
}

async function grantSupport(userId: string): Promise<void> {
  const body = { roles: ['user', 'support'] };
  const reply = await nodes[0].call('PUT', `/v1/users/${userId}/roles`, { token: admin, body });
  expect(reply.status).toBe(200);
}

/** Starts a session without a login: hashing is not under test and would take most of the time. */
function startSession(userId: string): Promise<StartedSession> {
  const { app } = random.pick(nodes);
  const unitOfWork = app.get(UnitOfWork, { strict: false });
  const sessions = app.get(SessionsService, { strict: false });
  return unitOfWork.run((transaction) =>
    sessions.start(transaction, userId, { ip: '127.0.0.1', userAgent: null }),
  );
}

const isReadingCache = ({ app }: TestApp): boolean => app.get(ReadGate, { strict: false }).isOpen;

const untilBothNodesReadCache = (): Promise<boolean> =>
  eventually('both nodes read the cache', () => nodes.every(isReadingCache));

async function disturb(disturbance: Disturbance): Promise<void> {
  const isCutOff = {
    none: [false, false],
    'first node cut off': [true, false],
    'second node cut off': [false, true],
    'both nodes cut off': [true, true],
    'Redis flushed': [false, false],
  }[disturbance];
  links.filter((_, index) => isCutOff[index]).forEach((link) => link.refuse());
  if (disturbance === 'Redis flushed') await sendRedisCommand(redis.port, 'FLUSHALL');
}

/** One request of a client. `startedAt` in performance.now() milliseconds. */
interface Attempt {
  readonly session: number;
  readonly startedAt: number;
  readonly status: number;
}

/** Sends requests without a pause, with one session at one node, until `stop`. */
class Client {
  readonly attempts: Attempt[] = [];
  private isStopping = false;
  private readonly running: Promise<void>;

  constructor(
    readonly session: number,
    private readonly send: () => Promise<Reply>,
  ) {
    this.running = this.run();
  }

  countSince(time: number, status: number): number {
    return this.attempts.filter((attempt) => attempt.startedAt > time && attempt.status === status)
      .length;
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await this.running;
  }

  private async run(): Promise<void> {
    while (!this.isStopping) {
      const startedAt = performance.now();
      const { status } = await this.send();
      this.attempts.push({ session: this.session, startedAt, status });
    }
  }
}

/** A request that needs the right which the ending takes. */
function sendWithRight(
  { rejection }: Ending,
  node: TestApp,
  token: string,
  session: number,
): Promise<Reply> {
  if (rejection === 403) return node.call('GET', SUMMARY, { token });
  if (random.chance(0.6)) {
    return node.call('GET', random.pick(['/v1/users/me', '/v1/sessions/current']), { token });
  }
  return node.call('POST', '/v1/orders', {
    token,
    body: { ...ORDER, note: String(session) },
    headers: { 'Idempotency-Key': randomUUID() },
  });
}

async function countOrders(userId: string, sessions: readonly number[]): Promise<number> {
  const { rows } = await database.query<{ orders: number }>(
    'SELECT count(*)::int AS orders FROM orders WHERE user_id = $1 AND note = ANY($2)',
    [userId, sessions.map(String)],
  );
  return rows[0]?.orders as number;
}

interface RoundResult {
  /** Descriptions of requests and orders that were accepted too late. */
  readonly late: readonly string[];
  readonly accepted: number;
  readonly rejected: number;
}

/** Ends a right of a new user while six clients use it. */
async function runRound({ name, ending, disturbance }: RoundPlan): Promise<RoundResult> {
  const { id: userId } = await register();
  if (ending === TAKE_ROLE) await grantSupport(userId);
  const started = await Promise.all(
    Array.from({ length: SESSIONS_PER_ROUND }, () => startSession(userId)),
  );
  await disturb(disturbance);
  const clients = started.flatMap(({ token }, session) =>
    nodes.map((node) => new Client(session, () => sendWithRight(ending, node, token, session))),
  );
  const endedClients = clients.filter(({ session }) => ending.ends(session));
  const endedSessions = [...new Set(endedClients.map(({ session }) => session))];
  try {
    const warmUp = random.between(1, 8);
    await eventually(`each client has sent ${warmUp} requests`, () =>
      clients.every(({ attempts }) => attempts.length >= warmUp),
    );

    const tokens = {
      'first session': started[0]?.token,
      'last session': started[LAST_SESSION]?.token,
      admin,
    };
    const firstSessionId = started[0]?.session.id as string;
    const [method, path, options] = ending.request({ userId, firstSessionId });
    const token = tokens[ending.by];
    const { status, text } = await random.pick(nodes).call(method, path, { ...options, token });
    const acknowledgedAt = performance.now();
    if (status !== ending.status) throw new Error(`${name}, ${disturbance}: ${status} ${text}`);

    const orders = await countOrders(userId, endedSessions);
    await eventually('each client of an ended session is rejected', () =>
      endedClients.every(
        (client) => client.countSince(acknowledgedAt, ending.rejection) >= REJECTIONS_PER_CLIENT,
      ),
    );
    await Promise.all(clients.map((client) => client.stop()));

    const lateOrders = (await countOrders(userId, endedSessions)) - orders;
    const lateAttempts = endedClients
      .flatMap(({ attempts }) => attempts)
      .filter((attempt) => attempt.startedAt > acknowledgedAt && attempt.status < 300);
    return {
      late: [
        ...Array<string>(lateOrders).fill(`${name}, ${disturbance}: an order was committed`),
        ...lateAttempts.map(
          (attempt) =>
            `${name}, ${disturbance}: ${attempt.status} to a request that began ` +
            `${Math.round(attempt.startedAt - acknowledgedAt)} ms after the end`,
        ),
      ],
      accepted: clients.flatMap(({ attempts }) => attempts.filter(({ status: s }) => s < 300))
        .length,
      rejected: endedClients.reduce(
        (sum, client) => sum + client.countSince(acknowledgedAt, ending.rejection),
        0,
      ),
    };
  } finally {
    await Promise.all(clients.map((client) => client.stop()));
    links.forEach((link) => link.heal());
  }
}

/** Every ending as often as every other, each with a disturbance at random. */
function planRounds(): RoundPlan[] {
  const plans: RoundPlan[] = [];
  while (plans.length < ROUNDS) {
    for (const [name, ending] of random.shuffled(Object.entries(ENDINGS))) {
      plans.push({ name, ending, disturbance: random.pick(DISTURBANCES) });
    }
  }
  return plans.slice(0, ROUNDS);
}

it(
  `a right that has ended is never used later, in ${ROUNDS} rounds (seed ${SEED})`,
  async () => {
    const results: RoundResult[] = [];
    for (const plan of planRounds()) {
      results.push(await runRound(plan));
      // Half of the rounds begin while the nodes are coming back.
      if (random.chance(0.5)) await untilBothNodesReadCache();
    }
    const accepted = results.reduce((sum, result) => sum + result.accepted, 0);
    const rejected = results.reduce((sum, result) => sum + result.rejected, 0);
    process.stdout.write(
      `    revocations: ${ROUNDS} rounds, seed ${SEED}: ${accepted} requests accepted, ` +
        `${rejected} rejected after the end\n`,
    );
    expect(results.flatMap(({ late }) => late)).toEqual([]);
    // Each round accepts requests of six clients before the end.
    expect(accepted).toBeGreaterThan(ROUNDS * SESSIONS_PER_ROUND);
  },
  TIMEOUT_MS,
);

describe('a right ends at a node that cannot reach Redis', () => {
  const RIGHTS: readonly (readonly [string, Ending, string])[] = [
    ['a session', END_BY_ID, '/v1/users/me'],
    ['a role', TAKE_ROLE, SUMMARY],
  ];

  const statusAt = async (node: TestApp, path: string, token: string): Promise<number> =>
    (await node.call('GET', path, { token })).status;

  /** Counts how often a node asks whether other nodes may still answer from the cache. */
  function countReaderChecks(node: TestApp): { count: () => number; stop: () => void } {
    const { logger } = node.app.get(DataSource);
    const { logQuery } = logger;
    let checks = 0;
    logger.logQuery = (sql) => {
      if (sql.includes('has_readers')) checks++;
    };
    return {
      count: () => checks,
      stop: () => {
        logger.logQuery = logQuery;
      },
    };
  }

  /** Keeps a node from applying invalidations of the database until the gate opens. */
  function stopInvalidations(node: TestApp): Gate {
    const gate = new Gate();
    const invalidations = node.app.get(DatabaseInvalidations, {
      strict: false,
    }) as unknown as { applyBatch: (...args: unknown[]) => Promise<string[]> };
    const applyBatch = invalidations.applyBatch.bind(invalidations);
    invalidations.applyBatch = async (...args) => {
      await gate.opened;
      return applyBatch(...args);
    };
    return gate;
  }

  it.each(RIGHTS)(
    'the end of %s is acknowledged once no other node answers from its cache',
    async (_, ending, path) => {
      const { id: userId } = await register();
      await grantSupport(userId);
      await untilBothNodesReadCache();
      const [ended, other] = [await startSession(userId), await startSession(userId)];
      expect(await statusAt(nodes[0], path, ended.token)).toBe(200);
      expect(await statusAt(nodes[1], path, ended.token)).toBe(200);

      const invalidations = stopInvalidations(nodes[1]);
      const checks = countReaderChecks(nodes[0]);
      let isAcknowledged = false;
      try {
        links[0].refuse();
        const firstSessionId = ended.session.id;
        const [method, target, options] = ending.request({ userId, firstSessionId });
        const token = ending.by === 'admin' ? admin : other.token;
        const acknowledged = nodes[0].call(method, target, { ...options, token }).then((reply) => {
          isAcknowledged = true;
          return reply.status;
        });
        await eventually('the first node waits for the second', () => checks.count() >= 3);
        const statusAtSecondNode = await statusAt(nodes[1], path, ended.token);
        // The second node still accepts the right: so the first must not acknowledge its end.
        expect([isAcknowledged, statusAtSecondNode]).toEqual([false, 200]);
        invalidations.open();
        expect(await acknowledged).toBe(ending.status);
      } finally {
        invalidations.open();
        checks.stop();
      }
      const statuses = [
        await statusAt(nodes[0], path, ended.token),
        await statusAt(nodes[1], path, ended.token),
      ];
      expect(statuses).toEqual([ending.rejection, ending.rejection]);
    },
  );

  it('the end is acknowledged without waiting where no node reads the cache', async () => {
    const { id: userId } = await register();
    await untilBothNodesReadCache();
    const { token } = await startSession(userId);
    links.forEach((link) => link.refuse());
    await eventually('no node reads the cache', async () => {
      await Promise.all(nodes.map((node) => statusAt(node, '/v1/users/me', token)));
      const { rows } = await database.query('SELECT FROM cache_readers');
      return rows.length === 0 && !nodes.some(isReadingCache);
    });
    const checks = countReaderChecks(nodes[1]);
    try {
      const reply = await nodes[1].call('DELETE', '/v1/sessions/current', { token });
      expect(reply.status).toBe(204);
      expect(checks.count()).toBe(1);
    } finally {
      checks.stop();
    }
    const statuses = [
      await statusAt(nodes[0], '/v1/users/me', token),
      await statusAt(nodes[1], '/v1/users/me', token),
    ];
    expect(statuses).toEqual([401, 401]);
  });
});
