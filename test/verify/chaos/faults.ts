/**
 * What can go wrong in a round, and when; the seed alone decides. The faults of one thing (a link,
 * a process, the Redis server) follow each other in a schedule; different schedules overlap. One
 * pass through a schedule has each of its kinds once, in random order: no kind is left to chance.
 */
import type { Random } from '../../support/random.js';
import type { Step } from './node-messages.js';

/** What a node reaches through a link that can be disturbed, or is reached by. */
export type LinkName = 'redis' | 'postgres' | `sentinel ${number}` | 'client';

/** Of one link of one node. */
export type LinkFault = { readonly on: 'link'; readonly node: number; readonly link: LinkName } & (
  | { readonly kind: 'link delayed'; readonly jitterMs: number; readonly ms: number }
  | { readonly kind: 'link cut' | 'link refused' | 'link stalled'; readonly ms: number }
  | {
      readonly kind: 'link half-open';
      readonly direction: 'up' | 'down';
      /** Whether the client must notice by itself that the connection is dead. */
      readonly isSilent: boolean;
      readonly ms: number;
    }
);

/** Of the links of all nodes to the Redis server. */
export interface RedisLinksFault {
  readonly on: 'redis links';
  readonly kind: 'outage' | 'address leads elsewhere';
  readonly ms: number;
}

/** A node that is started again with another cache than the others. */
export type ConfigurationFaultKind = 'other database' | 'other server' | 'no REDIS_URL';

/** Of one node's process. */
export type NodeFault = { readonly on: 'node'; readonly node: number } & (
  | { readonly kind: `SIGKILL ${Step}`; readonly step: Step; readonly ms: number }
  | { readonly kind: 'SIGSTOP'; readonly ms: number }
  /** Its wall clock is wrong by `jumpMs` for `ms`. */
  | { readonly kind: 'clock jump'; readonly jumpMs: number; readonly ms: number }
  | {
      readonly kind: ConfigurationFaultKind;
      readonly ms: number;
      /** Whether it ends in order before it starts again, or by SIGKILL. */
      readonly isOrderly: boolean;
    }
);

export type ServerFaultKind =
  'Redis hangs' | 'Redis back empty' | 'Redis back with an old dataset' | 'FLUSHALL' | 'evictions';
export type FailoverKind = 'failover by command' | 'master killed' | 'master hangs';
export type ShardFaultKind =
  'shard failover' | 'shard killed' | 'slot moved' | 'FLUSHALL of a shard';

/** Of the Redis server itself. */
export interface ServerFault {
  readonly on: 'redis';
  readonly kind: ServerFaultKind;
  readonly ms: number;
}

/** Of the servers under Sentinels. */
export interface FailoverFault {
  readonly on: 'sentinels';
  readonly kind: FailoverKind;
}

/** Of the servers of a Redis Cluster. */
export interface ShardFault {
  readonly on: 'cluster';
  readonly kind: ShardFaultKind;
  readonly shard: number;
  readonly ms: number;
}

export interface DatabaseFault {
  readonly on: 'database';
  readonly kind: 'LISTEN cut' | 'COMMIT stalled' | 'PostgreSQL killed';
  readonly ms: number;
}

export type Fault =
  | LinkFault
  | RedisLinksFault
  | NodeFault
  | ServerFault
  | FailoverFault
  | ShardFault
  | DatabaseFault;

/** The name that a fault is counted under, e.g. `postgres link cut`. */
export function nameOf(fault: Fault): string {
  if (fault.on !== 'link') return fault.kind;
  const [server] = fault.link.split(' ');
  return `${server} ${fault.kind}`;
}

/** Decides the details of one fault. */
export type FaultMaker<F = Fault> = (random: Random) => F;

export interface FaultSchedule<F = Fault> {
  readonly faults: readonly FaultMaker<F>[];
  /** Milliseconds between two faults: at least, at most. */
  readonly pauseMs: readonly [min: number, max: number];
}

/**
 * The faults of a schedule without end, each with the pause before it.
 * @param pauseFactor lengthens every pause
 */
export function* faultsOf<F>(
  schedule: FaultSchedule<F>,
  random: Random,
  pauseFactor: number,
): Generator<{ pauseMs: number; fault: F }> {
  for (;;) {
    for (const makeFault of random.shuffled(schedule.faults)) {
      const pauseMs = Math.round(random.between(...schedule.pauseMs) * pauseFactor);
      yield { pauseMs, fault: makeFault(random) };
    }
  }
}
