/** Faults of a Redis Cluster. The first of its three shards has a replica. */
import { setTimeout as sleep } from 'node:timers/promises';
import { moveSlot } from '../../support/cluster-slots.js';
import { type RedisCluster, type RedisServer, sendRedisCommand } from '../../support/redis.js';
import type { ShardFault } from './faults.js';
import { inTime, roleOf, tryCommand } from './sentinel-faults.js';

const IS_WHOLE = /cluster_state:ok[^]*cluster_slots_ok:16384\s/;

/** @returns whether the fault happened */
export async function disturbShard(
  cluster: RedisCluster,
  { kind, shard, ms }: ShardFault,
): Promise<boolean> {
  switch (kind) {
    case 'shard failover':
      return failOverFirstShard(cluster);
    case 'shard killed':
      await killShard(cluster, shard, ms);
      return true;
    case 'slot moved':
      return moveSlotAndBack(cluster, shard, ms);
    case 'FLUSHALL of a shard': {
      const master = await masterOf(cluster, shard);
      return (await tryCommand(master, 'FLUSHALL')) !== '';
    }
  }
}

/** Both servers of the first shard may be its master. */
async function masterOf({ masters, replica }: RedisCluster, shard: number): Promise<RedisServer> {
  const master = masters[shard] as RedisServer;
  const mayBeReplica = shard === 0 && (await roleOf(master)) !== 'master';
  return mayBeReplica ? replica : master;
}

/** @returns whether the replica was promoted */
async function failOverFirstShard(cluster: RedisCluster): Promise<boolean> {
  const [first] = cluster.masters;
  const master = await masterOf(cluster, 0);
  const successor = master === first ? cluster.replica : first;
  await inTime(async () => (await tryCommand(successor, 'CLUSTER FAILOVER')).startsWith('+OK'));
  const wasPromoted = await inTime(async () => (await roleOf(successor)) === 'master');
  await awaitWhole(cluster);
  return wasPromoted;
}

async function killShard(cluster: RedisCluster, shard: number, ms: number): Promise<void> {
  const master = await masterOf(cluster, shard);
  await master.kill();
  await sleep(ms);
  await master.restart();
  await awaitWhole(cluster);
}

/** A slot with cached keys, if there is one. */
async function moveSlotAndBack(cluster: RedisCluster, shard: number, ms: number): Promise<boolean> {
  const masters = await Promise.all([0, 1, 2].map((index) => masterOf(cluster, index)));
  const [from, to, other] = [0, 1, 2].map((offset) => masters[(shard + offset) % 3]) as [
    RedisServer,
    RedisServer,
    RedisServer,
  ];
  const slot = await slotInUse(from);
  if (slot === undefined) return false;
  await moveSlot(slot, from, to, [other]);
  await sleep(ms);
  await moveSlot(slot, to, from, [other]);
  return true;
}

async function slotInUse(master: RedisServer): Promise<number | undefined> {
  const key = /hf:\S+/.exec(await sendRedisCommand(master.port, 'RANDOMKEY'))?.[0];
  if (key === undefined) return undefined;
  const reply = await sendRedisCommand(master.port, `CLUSTER KEYSLOT ${key}`);
  return Number(reply.slice(1));
}

/** Until every server knows a master for each slot, and the first shard has a replica. */
async function awaitWhole({ masters, replica }: RedisCluster): Promise<void> {
  const servers = [...masters, replica];
  await inTime(async () => {
    const replies = await Promise.all(servers.map((server) => tryCommand(server, 'CLUSTER INFO')));
    return replies.every((reply) => IS_WHOLE.test(reply));
  });
  await inTime(async () => {
    const replies = [masters[0], replica].map((server) => tryCommand(server, 'INFO replication'));
    return (await Promise.all(replies)).some((reply) => reply.includes('master_link_status:up'));
  });
}
