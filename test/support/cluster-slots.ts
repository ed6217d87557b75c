/** What an operator does with the slots of a Redis Cluster. */
import { type RedisServer, sendRedisCommand } from './redis.js';

/** The id of a cluster's node. */
export async function clusterIdOf({ port }: RedisServer): Promise<string> {
  const reply = await sendRedisCommand(port, 'CLUSTER MYID');
  return /[0-9a-f]{40}/.exec(reply)![0];
}

/** Moves a slot and its keys between two masters. */
export async function moveSlot(
  slot: number,
  from: RedisServer,
  to: RedisServer,
  otherMasters: readonly RedisServer[],
): Promise<void> {
  const [sourceId, targetId] = await Promise.all([clusterIdOf(from), clusterIdOf(to)]);
  await sendRedisCommand(to.port, `CLUSTER SETSLOT ${slot} IMPORTING ${sourceId}`);
  await sendRedisCommand(from.port, `CLUSTER SETSLOT ${slot} MIGRATING ${targetId}`);
  for (;;) {
    const reply = await sendRedisCommand(from.port, `CLUSTER GETKEYSINSLOT ${slot} 100`);
    const redisKeys = reply.match(/hf:\S+/g) ?? [];
    if (redisKeys.length === 0) break;
    for (const redisKey of redisKeys) {
      await sendRedisCommand(from.port, `MIGRATE 127.0.0.1 ${to.port} ${redisKey} 0 1000`);
    }
  }
  for (const { port } of [to, from, ...otherMasters]) {
    await sendRedisCommand(port, `CLUSTER SETSLOT ${slot} NODE ${targetId}`);
  }
}
