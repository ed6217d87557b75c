/**
 * What goes wrong in a round, and when; the seed alone decides. The faults of one thing (a link, a
 * process, the Redis server) follow each other in a schedule; different schedules overlap. One pass
 * through a schedule has each of its kinds once, in random order: no kind is left to chance.
 */
import type { Random } from '../../support/random.js';
import { type Step, STEPS } from './node-messages.js';

export type LinkName = 'redis' | 'postgres';

interface LinkFault {
  readonly node: number;
  readonly link: LinkName;
  readonly ms: number;
}

/** Faults of what all nodes share. */
export type ServerFaultKind =
  | 'outage'
  | 'Redis hangs'
  | 'Redis back empty'
  | 'Redis back with an old dataset'
  | 'FLUSHALL'
  | 'evictions'
  | 'LISTEN cut'
  | FailoverKind;

export type FailoverKind = 'failover by command' | 'master killed' | 'master hangs';

export interface ServerFault {
  readonly kind: ServerFaultKind;
  readonly ms: number;
}

export type Fault =
  | (LinkFault & { readonly kind: 'link delayed'; readonly jitterMs: number })
  | (LinkFault & { readonly kind: 'link cut' | 'link refused' | 'link stalled' })
  | (LinkFault & {
      readonly kind: 'link half-open';
      readonly direction: 'up' | 'down';
      /** Whether the client must notice by itself that the connection is dead. */
      readonly isSilent: boolean;
    })
  | KillFault
  | { readonly kind: 'SIGSTOP'; readonly node: number; readonly ms: number }
  | ServerFault;

export interface KillFault {
  readonly kind: `SIGKILL ${Step}`;
  readonly node: number;
  readonly step: Step;
  /** From the death until the node is started again. */
  readonly ms: number;
}

/** Decides the details of one fault. */
type FaultMaker = (random: Random) => Fault;

export interface FaultSchedule {
  readonly faults: readonly FaultMaker[];
  /** Milliseconds between two faults: at least, at most. */
  readonly pauseMs: readonly [min: number, max: number];
}

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
        kind: 'link delayed',
        node,
        link,
        jitterMs: random.between(1, 40),
        ms: random.between(100, 1_000),
      }),
      () => ({ kind: 'link cut', node, link, ms: 0 }),
      (random) => ({ kind: 'link refused', node, link, ms: random.between(50, 1_000) }),
      (random) => ({ kind: 'link stalled', node, link, ms: random.between(20, 900) }),
      halfOpen('up'),
      halfOpen('down'),
    ],
    pauseMs: [50, 500],
  };
}

const kill =
  (node: number, step: Step): FaultMaker =>
  (random) => ({ kind: `SIGKILL ${step}`, node, step, ms: random.between(0, 400) });

/** Stops a node for longer than any lease or fence lasts. */
const stop =
  (node: number, { fenceMs }: Times): FaultMaker =>
  (random) => ({ kind: 'SIGSTOP', node, ms: Math.round(fenceMs * (1.1 + 0.2 * random.next())) });

/**
 * SIGKILL at each step that a node is certain to reach, and SIGSTOP if wanted, dealt out to the
 * nodes. `commit sent` is not certain: its death may come after that of `committed`.
 */
export function nodeSchedules(nodes: number, times: Times, withStop: boolean): FaultSchedule[] {
  const faults: FaultMaker[][] = Array.from({ length: nodes }, () => []);
  if (withStop) faults[0]?.push(stop(0, times));
  const certainSteps = STEPS.filter((step) => step !== 'commit sent');
  for (const [index, step] of certainSteps.entries()) {
    const node = nodes - 1 - (index % nodes);
    faults[node]?.push(kill(node, step));
  }
  return faults.map((ofNode) => ({ faults: ofNode, pauseMs: [100, 700] }));
}

/** SIGKILL at every step and SIGSTOP, for every node. */
export function fullNodeSchedules(nodes: number, times: Times): FaultSchedule[] {
  return Array.from({ length: nodes }, (_, node) => ({
    faults: [stop(node, times), ...STEPS.map((step) => kill(node, step))],
    pauseMs: [200, 4_000],
  }));
}

const serverFault =
  (kind: ServerFaultKind, minMs = 0, maxMs = 0): FaultMaker =>
  (random) => ({ kind, ms: random.between(minMs, maxMs) });

export const REDIS_SCHEDULE: FaultSchedule = {
  faults: [
    serverFault('Redis hangs', 50, 1_000),
    serverFault('Redis back empty', 20, 500),
    serverFault('Redis back with an old dataset', 50, 400),
    serverFault('outage', 300, 1_200),
  ],
  pauseMs: [300, 1_200],
};

export const EVICTION_SCHEDULE: FaultSchedule = {
  faults: [serverFault('FLUSHALL'), serverFault('evictions', 50, 300)],
  pauseMs: [200, 1_000],
};

export const LISTEN_SCHEDULE: FaultSchedule = {
  faults: [serverFault('LISTEN cut')],
  pauseMs: [300, 1_500],
};

export const FAILOVER_SCHEDULE: FaultSchedule = {
  faults: [
    serverFault('failover by command'),
    serverFault('master killed'),
    serverFault('master hangs'),
  ],
  pauseMs: [300, 2_000],
};

/**
 * The faults of a schedule without end, each with the pause before it.
 * @param pauseFactor lengthens every pause
 */
export function* faultsOf(
  schedule: FaultSchedule,
  random: Random,
  pauseFactor: number,
): Generator<{ pauseMs: number; fault: Fault }> {
  for (;;) {
    for (const makeFault of random.shuffled(schedule.faults)) {
      const pauseMs = Math.round(random.between(...schedule.pauseMs) * pauseFactor);
      yield { pauseMs, fault: makeFault(random) };
    }
  }
}
