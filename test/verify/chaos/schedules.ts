/** The schedules that scenarios are made of: which faults, how long, how often. */
import {
  type ConfigurationFaultKind,
  type DatabaseFault,
  type FaultMaker,
  type FaultSchedule,
  type LinkName,
  type FailoverKind,
  type RedisLinksFault,
  type ServerFaultKind,
  type ShardFaultKind,
} from './faults.js';
import { type Step, STEPS } from './node-messages.js';

/** The service's own times, which decide how long a fault must last to matter. */
export interface Times {
  readonly fenceMs: number;
  /** How many times shorter than in production the service's long times are. */
  readonly divisor: number;
}

export function linkSchedule(node: number, link: LinkName, { divisor }: Times): FaultSchedule {
  const halfOpen =
    (direction: 'up' | 'down'): FaultMaker =>
    (random) => ({
      on: 'link',
      kind: 'link half-open',
      node,
      link,
      direction,
      isSilent: random.chance(0.4),
      ms: random.between(200, 8_000 / divisor),
    });
  return {
    faults: [
      (random) => ({
        on: 'link',
        kind: 'link delayed',
        node,
        link,
        jitterMs: random.between(1, 40),
        ms: random.between(100, 1_000),
      }),
      () => ({ on: 'link', kind: 'link cut', node, link, ms: 0 }),
      (random) => ({
        on: 'link',
        kind: 'link refused',
        node,
        link,
        ms: random.between(50, 1_000),
      }),
      (random) => ({ on: 'link', kind: 'link stalled', node, link, ms: random.between(20, 900) }),
      halfOpen('up'),
      halfOpen('down'),
    ],
    pauseMs: [50, 500],
  };
}

/** One schedule for each node and link. */
export const linkSchedules = (
  nodes: number,
  links: readonly LinkName[],
  times: Times,
): FaultSchedule[] =>
  indexesOf(nodes).flatMap((node) => links.map((link) => linkSchedule(node, link, times)));

const kill =
  (node: number, step: Step): FaultMaker =>
  (random) => ({ on: 'node', kind: `SIGKILL ${step}`, node, step, ms: random.between(0, 400) });

/** Stops a node for longer than any lease or fence lasts. */
const stop =
  (node: number, { fenceMs }: Times): FaultMaker =>
  (random) => ({
    on: 'node',
    kind: 'SIGSTOP',
    node,
    ms: Math.round(fenceMs * (1.1 + 0.2 * random.next())),
  });

/**
 * SIGKILL at each step that a node is certain to reach, and SIGSTOP, dealt out to the nodes.
 * `commit sent` is not certain: its death may come after that of `committed`.
 */
export function sharedNodeSchedules(nodes: number, times: Times): FaultSchedule[] {
  const faults = indexesOf(nodes).map((node) => (node === 0 ? [stop(0, times)] : []));
  const certainSteps = STEPS.filter((step) => step !== 'commit sent');
  for (const [index, step] of certainSteps.entries()) {
    const node = nodes - 1 - (index % nodes);
    faults[node]?.push(kill(node, step));
  }
  return faults.map((ofNode) => ({ faults: ofNode, pauseMs: [100, 700] }));
}

/**
 * SIGKILL at every step and SIGSTOP, for every node; with `kinds` also starts with another cache.
 * They are in one schedule, because they concern one process.
 */
export function fullNodeSchedules(
  nodes: number,
  times: Times,
  kinds: readonly ConfigurationFaultKind[] = [],
): FaultSchedule[] {
  return indexesOf(nodes).map((node) => ({
    faults: [
      stop(node, times),
      ...STEPS.map((step) => kill(node, step)),
      ...kinds.map((kind) => misconfigure(node, kind, times)),
    ],
    pauseMs: [200, 4_000],
  }));
}

export const CONFIGURATIONS: readonly ConfigurationFaultKind[] = [
  'other database',
  'other server',
  'no REDIS_URL',
];

const misconfigure =
  (node: number, kind: ConfigurationFaultKind, { divisor }: Times): FaultMaker =>
  (random) => ({
    on: 'node',
    kind,
    node,
    isOrderly: random.chance(0.5),
    ms: random.between(300, 6_000 / divisor),
  });

/** A node that starts with another cache than the others, and comes back. */
export const configurationSchedule = (node: number, times: Times): FaultSchedule => ({
  faults: CONFIGURATIONS.map((kind) => misconfigure(node, kind, times)),
  pauseMs: [100, 500],
});

/** Far more and hardly more than any time of the cache. */
const CLOCK_JUMPS_MS = [-600_000, -3_000, 3_000, 600_000];

/** One in each direction. */
export const clockSchedule = (node: number): FaultSchedule => ({
  faults: [-1, 1].map((sign) => (random) => ({
    on: 'node',
    kind: 'clock jump',
    node,
    jumpMs: random.pick(CLOCK_JUMPS_MS.filter((ms) => Math.sign(ms) === sign)),
    ms: random.between(50, 1_500),
  })),
  pauseMs: [200, 2_000],
});

export const clockSchedules = (nodes: number): FaultSchedule[] =>
  indexesOf(nodes).map(clockSchedule);

const serverFault =
  (kind: ServerFaultKind, minMs = 0, maxMs = 0): FaultMaker =>
  (random) => ({ on: 'redis', kind, ms: random.between(minMs, maxMs) });

const redisLinksFault =
  (kind: RedisLinksFault['kind'], minMs: number, maxMs: number): FaultMaker =>
  (random) => ({ on: 'redis links', kind, ms: random.between(minMs, maxMs) });

export const REDIS_SCHEDULE: FaultSchedule = {
  faults: [
    serverFault('Redis hangs', 50, 1_000),
    serverFault('Redis back empty', 20, 500),
    serverFault('Redis back with an old dataset', 50, 400),
    redisLinksFault('outage', 300, 1_200),
  ],
  pauseMs: [300, 1_200],
};

/** Its nodes learn one after the other that their address leads to another server. */
export const ADDRESS_SCHEDULE: FaultSchedule = {
  faults: [redisLinksFault('address leads elsewhere', 200, 1_500)],
  pauseMs: [500, 4_000],
};

export const EVICTION_SCHEDULE: FaultSchedule = {
  faults: [serverFault('FLUSHALL'), serverFault('evictions', 50, 300)],
  pauseMs: [200, 1_000],
};

const failover =
  (kind: FailoverKind): FaultMaker =>
  () => ({ on: 'sentinels', kind });

export const FAILOVER_SCHEDULE: FaultSchedule = {
  faults: [failover('failover by command'), failover('master killed'), failover('master hangs')],
  pauseMs: [300, 2_000],
};

const shardFault =
  (kind: ShardFaultKind, minMs = 0, maxMs = 0): FaultMaker =>
  (random) => ({
    on: 'cluster',
    kind,
    shard: random.between(0, 2),
    ms: random.between(minMs, maxMs),
  });

export const SHARD_SCHEDULE: FaultSchedule = {
  faults: [
    shardFault('shard failover'),
    shardFault('shard killed', 50, 2_500),
    shardFault('slot moved', 100, 1_000),
    shardFault('FLUSHALL of a shard'),
  ],
  pauseMs: [200, 1_500],
};

const databaseFault =
  (kind: DatabaseFault['kind'], minMs = 0, maxMs = 0): FaultMaker =>
  (random) => ({ on: 'database', kind, ms: Math.round(random.between(minMs, maxMs)) });

export const LISTEN_SCHEDULE: FaultSchedule = {
  faults: [databaseFault('LISTEN cut')],
  pauseMs: [300, 1_500],
};

/** For less than any time of the service, and for longer than a fence. */
export const commitSchedule = ({ fenceMs }: Times): FaultSchedule => ({
  faults: [
    databaseFault('COMMIT stalled', 50, fenceMs / 10),
    databaseFault('COMMIT stalled', fenceMs * 1.1, fenceMs * 1.2),
  ],
  pauseMs: [500, 3_000],
});

export const POSTGRES_SCHEDULE: FaultSchedule = {
  faults: [databaseFault('PostgreSQL killed', 0, 500)],
  pauseMs: [1_000, 4_000],
};

const indexesOf = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
