/** Failovers under Sentinels. */
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../support/eventually.js';
import { type RedisSentinel, type RedisServer, sendRedisCommand } from '../../support/redis.js';
import type { FailoverKind } from './faults.js';

const FAILOVER_TIMEOUT_MS = 60_000;
/** Until both servers may believe to be the master, before the old one is told otherwise. */
const SPLIT_MS = 1_000;

/**
 * Makes the replica the master. Resolves when every Sentinel names it and the old master is its
 * replica.
 * @returns whether the replica was promoted in time
 */
export async function failOver(
  { servers, sentinels }: RedisSentinel,
  kind: FailoverKind,
): Promise<boolean> {
  const [first, second] = servers;
  const isFirstMaster = (await roleOf(first)) === 'master';
  const [oldMaster, newMaster] = isFirstMaster ? [first, second] : [second, first];

  await beginFailover(kind, oldMaster, sentinels);
  const wasPromoted = await inTime(async () => (await roleOf(newMaster)) === 'master');
  await inTime(async () => {
    const names = sentinels.map((sentinel) => isNamedBy(sentinel, newMaster));
    return (await Promise.all(names)).every(Boolean);
  });
  if (kind === 'master killed') await oldMaster.restart();
  if (kind === 'master hangs') oldMaster.resume();
  // A Sentinel would demote the old master after 8 s: the round does not wait for that.
  await sleep(SPLIT_MS);
  await tryCommand(oldMaster, `REPLICAOF 127.0.0.1 ${newMaster.port}`);
  await inTime(async () =>
    (await tryCommand(newMaster, 'INFO replication')).includes('state=online'),
  );
  return wasPromoted;
}

async function beginFailover(
  kind: FailoverKind,
  master: RedisServer,
  sentinels: readonly RedisServer[],
): Promise<void> {
  switch (kind) {
    case 'master killed':
      await master.kill();
      return;
    case 'master hangs':
      master.pause();
      return;
    case 'failover by command':
      // Refused while an earlier failover is in progress.
      await inTime(async () => {
        const sentinel = sentinels[0] as RedisServer;
        return (await tryCommand(sentinel, 'SENTINEL FAILOVER holdfast')) !== '';
      });
  }
}

export async function roleOf(server: RedisServer): Promise<string> {
  const reply = await tryCommand(server, 'INFO replication');
  return /^role:(\w+)/m.exec(reply)?.[1] ?? '';
}

async function isNamedBy(sentinel: RedisServer, { port }: RedisServer): Promise<boolean> {
  const reply = await tryCommand(sentinel, 'SENTINEL GET-MASTER-ADDR-BY-NAME holdfast');
  return reply.includes(`\r\n${port}\r\n`);
}

/** The reply; empty when there is none or it is an error. */
export const tryCommand = ({ port }: RedisServer, command: string): Promise<string> =>
  sendRedisCommand(port, command).catch(() => '');

/** @returns whether the condition became true within the time that a failover may take */
export function inTime(condition: () => Promise<boolean>): Promise<boolean> {
  return eventually('the failover proceeds', condition, FAILOVER_TIMEOUT_MS).catch(() => false);
}
