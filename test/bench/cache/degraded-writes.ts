/**
 * What a write costs when it cannot be fenced and waits before its acknowledgement until no node
 * answers from before it, and how long it takes to use the cache again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { startApp } from '../../support/app.js';
import { percentile } from '../../support/percentile.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import { timeOf } from '../rounds.js';
import type { CacheNode } from './cache-node.js';

export const DEGRADED_WRITES = 300;
const POLL_MS = 2;

/** One kind of write. */
export interface WriteCost {
  readonly name: string;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface DegradedResult {
  readonly costs: readonly WriteCost[];
  /** From the end of the outage until both nodes use the cache. */
  readonly backAfterOutageMs: number;
  /** From the stop of the last node with the epoch's cache until one with another uses its own. */
  readonly takeOverMs: number;
}

interface Setup {
  /** Two nodes, each with its own link to Redis. */
  readonly nodes: readonly [CacheNode, CacheNode];
  readonly links: readonly [TcpProxy, TcpProxy];
  readonly databaseUrl: string;
  readonly id: string;
}

/** The nodes are stopped afterwards. */
export async function measureDegradedWrites(setup: Setup): Promise<DegradedResult> {
  const { nodes, links, id } = setup;
  const [first, second] = nodes;
  const update = async (): Promise<void> => {
    const row = await first.readRow(id);
    await first.update(row, `note ${row.version}`);
  };
  const plainUpdate = async (): Promise<void> => {
    const row = await second.readRow(id);
    await second.updateWithoutCache(row, `note ${row.version}`);
  };

  const costs = [
    await costOf('PostgreSQL alone, without the cache', plainUpdate),
    await costOf('fenced and published', update),
  ];
  links[0].refuse();
  await until(() => !first.isMember);
  costs.push(await costOf('this node cannot reach Redis, another can', update));
  links[1].refuse();
  await until(() => !second.isMember);
  costs.push(await costOf('no node reaches Redis', update));
  links.forEach((link) => link.heal());
  const backAfterOutageMs = await timeOf(() => until(() => nodes.every((node) => node.isMember)));
  return { costs, backAfterOutageMs, takeOverMs: await measureTakeOver(setup) };
}

/** A node with its cache in memory waits until both others have gone. */
async function measureTakeOver({ nodes, databaseUrl }: Setup): Promise<number> {
  const other = await startApp({}, databaseUrl);
  try {
    const isMember = async (): Promise<boolean> => {
      const { body } = await other.call('GET', '/health/ready');
      return body.checks.cache.status === 'up';
    };
    if (await isMember()) throw new Error('The node with another cache uses it');
    await Promise.all(nodes.map((node) => node.app.close()));
    return await timeOf(async () => {
      while (!(await isMember())) await sleep(POLL_MS);
    });
  } finally {
    await other.close();
  }
}

async function costOf(name: string, write: () => Promise<void>): Promise<WriteCost> {
  const times: number[] = [];
  for (let count = 0; count < DEGRADED_WRITES; count++) times.push(await timeOf(write));
  return { name, p50Ms: percentile(times, 0.5), p99Ms: percentile(times, 0.99) };
}

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(POLL_MS);
}
