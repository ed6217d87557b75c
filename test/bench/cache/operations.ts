/** What the cache's operations cost: their time, and the round trips that they wait for. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from 'redis';
import { median } from '../../support/percentile.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import { alternate, timeOf } from '../rounds.js';
import type { CacheNode } from './cache-node.js';

/** The delay of each direction of a slow connection. */
export const ONE_WAY_MS = 10;
const ROUND_TRIP_MS = 2 * ONE_WAY_MS;
/** Until chunks that were sent with the old delay have arrived. */
const DRAIN_MS = 100;

const ROUNDS = 4;
const SAMPLES = { fast: 2_000, slow: 300, delayed: 12, warmUp: 40 } as const;

interface Operation {
  readonly name: string;
  readonly samples: number;
  /** Prepares one call on this node. Only the call is timed. */
  readonly prepare: (node: CacheNode) => Promise<Call>;
}

type Call = () => Promise<unknown>;

export interface OperationCost {
  readonly name: string;
  readonly medianMs: number;
  /** Waited for one after the other, with Redis far away, PostgreSQL far away, or both. */
  readonly roundTrips: readonly number[];
}

/** A node whose connections to Redis and PostgreSQL can be delayed. */
export interface DelayedNode {
  readonly node: CacheNode;
  readonly redisProxy: TcpProxy;
  readonly postgresProxy: TcpProxy;
}

/** @param ids the rows of the operation on many rows */
function operationsOn(id: string, ids: readonly string[]): Operation[] {
  let noteCount = 0;
  const nextNote = (): string => `note ${noteCount++}`;
  return [
    {
      name: 'hit',
      samples: SAMPLES.fast,
      prepare: async (node) => () => node.orders.findById(id),
    },
    {
      name: 'miss',
      samples: SAMPLES.slow,
      prepare: async (node) => {
        await node.evict(id);
        return () => node.orders.findById(id);
      },
    },
    {
      name: `${ids.length} hits`,
      samples: SAMPLES.slow,
      prepare: async (node) => () => node.orders.findByIds(ids),
    },
    {
      name: 'the SQL of a write alone',
      samples: SAMPLES.slow,
      prepare: async (node) => {
        const row = await node.readRow(id);
        return () => node.updateWithoutCache(row, nextNote());
      },
    },
    {
      name: 'a write: SQL, fence and publication',
      samples: SAMPLES.slow,
      prepare: async (node) => {
        const row = await node.readRow(id);
        return () => node.update(row, nextNote());
      },
    },
  ];
}

/** Measures every operation on a near node, and its round trips on a delayed one. */
export async function measureOperations(
  nearNodes: readonly CacheNode[],
  delayed: DelayedNode,
  id: string,
  ids: readonly string[],
): Promise<OperationCost[]> {
  const operations = operationsOn(id, ids);
  for (const node of [...nearNodes, delayed.node]) {
    await node.orders.findByIds([id, ...ids]);
    await medianTimes(operations, node, () => SAMPLES.warmUp);
  }
  const near = await medianTimes(operations, nearNodes[0] as CacheNode, ({ samples }) => samples);
  const trips = await measureRoundTrips(operations, delayed, near);
  return operations.map(({ name }) => ({
    name,
    medianMs: near.get(name) ?? NaN,
    roundTrips: trips.map((tripsOf) => tripsOf.get(name) ?? NaN),
  }));
}

/**
 * Over connections that take {@link ROUND_TRIP_MS}, an operation takes that much longer for each
 * round trip that it waits for, and no longer for those that run beside another.
 */
async function measureRoundTrips(
  operations: readonly Operation[],
  { node, redisProxy, postgresProxy }: DelayedNode,
  near: ReadonlyMap<string, number>,
): Promise<Map<string, number>[]> {
  const delays = [
    { redisMs: ONE_WAY_MS, postgresMs: 0 },
    { redisMs: 0, postgresMs: ONE_WAY_MS },
    { redisMs: ONE_WAY_MS, postgresMs: ONE_WAY_MS },
  ];
  const trips: Map<string, number>[] = [];
  for (const { redisMs, postgresMs } of delays) {
    redisProxy.setDelay(redisMs, 0);
    postgresProxy.setDelay(postgresMs, 0);
    await sleep(DRAIN_MS);
    const times = await medianTimes(operations, node, () => SAMPLES.delayed);
    const tripsOf = [...times].map(([name, ms]) => {
      const delayMs = Math.max(0, ms - (near.get(name) ?? 0));
      return [name, delayMs / ROUND_TRIP_MS] as const;
    });
    trips.push(new Map(tripsOf));
  }
  redisProxy.setDelay(0, 0);
  postgresProxy.setDelay(0, 0);
  return trips;
}

/** Median milliseconds of each operation on one node; the operations alternate. */
async function medianTimes(
  operations: readonly Operation[],
  node: CacheNode,
  samplesOf: (operation: Operation) => number,
): Promise<Map<string, number>> {
  const ways = operations.map((operation) => {
    const samples = samplesOf(operation) / ROUNDS;
    return [operation.name, () => timeCalls(samples, () => operation.prepare(node))] as const;
  });
  const times = await alternate(ROUNDS, Object.fromEntries(ways));
  return new Map([...times].map(([name, lists]) => [name, median(lists.flat())]));
}

/** Milliseconds of each call, one after the other. */
async function timeCalls(count: number, prepare: () => Promise<Call>): Promise<number[]> {
  const times: number[] = [];
  for (let index = 0; index < count; index++) {
    const call = await prepare();
    times.push(await timeOf(call));
  }
  return times;
}

/** The raw commands of Redis that the operations are compared with. Each is one round trip. */
export async function measureRawCommands(
  redisUrl: string,
  text: string,
  keyCount: number,
): Promise<OperationCost[]> {
  const client = await createClient({ url: redisUrl }).connect();
  try {
    const keys = Array.from({ length: keyCount }, (_, index) => `raw:${index}`);
    const [firstKey] = keys as [string];
    await Promise.all(keys.map((key) => client.set(key, text)));
    const commands: [name: string, samples: number, call: Call][] = [
      ['raw GET', SAMPLES.fast, () => client.get(firstKey)],
      ['raw SET', SAMPLES.fast, () => client.set(firstKey, text)],
      [`raw MGET of ${keyCount}`, SAMPLES.slow, () => client.mGet(keys)],
    ];
    const costs: OperationCost[] = [];
    for (const [name, samples, call] of commands) {
      const times = await timeCalls(samples, async () => call);
      costs.push({ name, medianMs: median(times), roundTrips: [1, 0, 1] });
    }
    return costs;
  } finally {
    client.destroy();
  }
}
