/** What readers see in a stampede, after writes past the service, and while Redis hangs. */
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { RedisServer } from '../../support/redis.js';
import { timeOf } from '../rounds.js';
import type { CacheNode } from './cache-node.js';

export const STAMPEDE = { rounds: 20, readers: 400 } as const;
export const UPDATES_BY_HAND = 300;
export const HANG_MS = 5_000;

export interface Stampede {
  /** Rows read from PostgreSQL in each round. */
  readonly loads: readonly number[];
  readonly slowestMs: number;
}

/** Many readers at once of one row that no cache holds. */
export async function measureStampede(nodes: readonly CacheNode[], id: string): Promise<Stampede> {
  const loads: number[] = [];
  let slowestMs = 0;
  for (let round = 0; round < STAMPEDE.rounds; round++) {
    await nodes[0]?.evict(id);
    const loadedBefore = await rowsLoadedBy(nodes);
    const reads = Array.from({ length: STAMPEDE.readers }, (_, reader) =>
      timeOf(() => (nodes[reader % nodes.length] as CacheNode).orders.findById(id)),
    );
    slowestMs = Math.max(slowestMs, ...(await Promise.all(reads)));
    loads.push((await rowsLoadedBy(nodes)) - loadedBefore);
  }
  return { loads, slowestMs };
}

async function rowsLoadedBy(nodes: readonly CacheNode[]): Promise<number> {
  const counts = await Promise.all(nodes.map((node) => node.rowsLoaded()));
  return counts.reduce((sum, count) => sum + count, 0);
}

/**
 * Updates a row in psql's way, past the service.
 * @returns milliseconds from each acknowledgement until a node reads the new row
 */
export async function measureLagByHand(
  nodes: readonly CacheNode[],
  client: pg.Client,
  id: string,
): Promise<number[]> {
  const lags: number[] = [];
  for (let round = 0; round < UPDATES_BY_HAND; round++) {
    const node = nodes[round % nodes.length] as CacheNode;
    await node.orders.findById(id);
    const note = `by hand ${round}`;
    await client.query('UPDATE orders SET note = $2 WHERE id = $1', [id, note]);
    lags.push(await timeOf(() => awaitNote(node, id, note)));
    await sleep(2);
  }
  return lags;
}

async function awaitNote(node: CacheNode, id: string, note: string): Promise<void> {
  while ((await node.orders.findById(id))?.note !== note) {
    // Without a pause the reads would leave the node no time to receive the invalidation.
    await sleep(1);
  }
}

const READERS = 16;
const WRITERS = 2;
const REST_MS = 5;
/** Load before Redis hangs. */
const LEAD_MS = 2_000;
/** Requests that begin this close before the hang may still be running when it begins. */
const MARGIN_MS = 500;
/** In the first second the circuit breaker opens. */
const BREAKER_MS = 1_000;

export interface Hang {
  /** Requests that began while Redis hung. */
  readonly requests: number;
  /** Of all requests, also of those before the hang: not answered with 2xx. */
  readonly failed: number;
  /** The slowest request that began before the hang, in its first second, and later. */
  readonly slowestBeforeMs: number;
  readonly slowestFirstSecondMs: number;
  readonly slowestLaterMs: number;
  /** From the end of the hang to the next hit. */
  readonly recoveryMs: number;
}

interface AnsweredRequest {
  /** Milliseconds after the beginning of the hang; negative before it. */
  readonly beganAt: number;
  readonly took: number;
  readonly isOk: boolean;
}

/** Sends requests over HTTP while Redis is stopped with SIGSTOP. */
export async function measureHang(
  node: CacheNode,
  redis: Pick<RedisServer, 'pause' | 'resume'>,
  token: string,
  ids: readonly string[],
): Promise<Hang> {
  const answered: AnsweredRequest[] = [];
  const hangBegins = performance.now() + LEAD_MS;
  const sendUntilEnd = async (send: (round: number) => Promise<boolean>): Promise<void> => {
    for (let round = 0; performance.now() - hangBegins < HANG_MS; round++) {
      const beganAt = performance.now() - hangBegins;
      let isOk = false;
      const took = await timeOf(async () => {
        isOk = await send(round);
      });
      answered.push({ beganAt, took, isOk });
      await sleep(REST_MS);
    }
  };
  const readers = Array.from({ length: READERS }, (_, reader) =>
    sendUntilEnd((round) => readOver(node, token, ids[(round + reader) % ids.length] as string)),
  );
  const writers = ids.slice(0, WRITERS).map((id) => sendUntilEnd(() => writeOver(node, token, id)));
  const pausing = sleep(LEAD_MS).then(() => redis.pause());
  try {
    await Promise.all([pausing, ...readers, ...writers]);
  } finally {
    redis.resume();
  }
  const recoveryMs = await timeOf(() => awaitHit(node, token, ids.at(-1) as string));
  return { ...summarize(answered), recoveryMs };
}

async function readOver({ app }: CacheNode, token: string, id: string): Promise<boolean> {
  const { status } = await app.call('GET', `/v1/orders/${id}`, { token });
  return status === 200;
}

async function writeOver(node: CacheNode, token: string, id: string): Promise<boolean> {
  const { version } = await node.readRow(id);
  const { status } = await node.app.call('PATCH', `/v1/orders/${id}`, {
    token,
    headers: { 'If-Match': `"${version}"` },
    body: { note: `hung ${version}` },
  });
  return status === 200;
}

async function awaitHit({ app }: CacheNode, token: string, id: string): Promise<void> {
  for (;;) {
    const { headers } = await app.call('GET', `/v1/orders/${id}`, { token });
    if (headers.get('cache-status') === 'holdfast; hit') return;
    await sleep(REST_MS);
  }
}

function summarize(answered: readonly AnsweredRequest[]): Omit<Hang, 'recoveryMs'> {
  const slowest = (accept: (beganAt: number) => boolean): number =>
    Math.max(...answered.filter(({ beganAt }) => accept(beganAt)).map(({ took }) => took));
  return {
    requests: answered.filter(({ beganAt }) => beganAt >= 0).length,
    failed: answered.filter(({ isOk }) => !isOk).length,
    slowestBeforeMs: slowest((beganAt) => beganAt < -MARGIN_MS),
    slowestFirstSecondMs: slowest((beganAt) => beganAt >= 0 && beganAt < BREAKER_MS),
    slowestLaterMs: slowest((beganAt) => beganAt >= BREAKER_MS),
  };
}
