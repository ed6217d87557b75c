/**
 * What goes wrong in a round, and when: lanes of faults that the seed alone decides. Faults of one thing (a link, a process,
 * the Redis server) follow each other in a lane; those of different lanes overlap, which is where the interesting histories
 * are. A pass through a lane has each of its kinds once, in a random order, so that no kind is left to luck.
 */
import { type Step, STEPS } from './history.js';
import type { Random } from './random.js';

export type LinkName = 'redis' | 'postgres';

/** What befalls no node of its own. */
type ServerFault =
  | 'outage'
  | 'Redis hangs'
  | 'Redis back empty'
  | 'Redis back with an old dataset'
  | 'FLUSHALL'
  | 'evictions'
  | 'LISTEN cut'
  | 'failover by hand'
  | 'master killed'
  | 'master hangs';

export type Fault =
  | {
      readonly kind: 'link delayed';
      readonly node: number;
      readonly link: LinkName;
      readonly ms: number;
      readonly jitterMs: number;
    }
  | {
      readonly kind: 'link cut' | 'link refused' | 'link stalled';
      readonly node: number;
      readonly link: LinkName;
      readonly ms: number;
    }
  | {
      readonly kind: 'link half-open';
      readonly node: number;
      readonly link: LinkName;
      readonly direction: 'up' | 'down';
      readonly silently: boolean;
      readonly ms: number;
    }
  | {
      readonly kind: `SIGKILL ${Step}`;
      readonly node: number;
      readonly step: Step;
      readonly ms: number;
    }
  | { readonly kind: 'SIGSTOP'; readonly node: number; readonly ms: number }
  | { readonly kind: ServerFault; readonly ms: number };

/** One lane: what it may do, and how long it is quiet between two faults. */
export interface Lane {
  readonly faults: readonly ((random: Random) => Fault)[];
  readonly quietMs: readonly [number, number];
}

/** How long what outlasts leases and fences must last, and what is about a second long with the service's real times. */
export interface Times {
  readonly fenceMs: number;
  /** By how much the service's long times are shorter than in production. */
  readonly dividedBy: number;
}

type Maker = (random: Random) => Fault;

export function linkLane(node: number, link: LinkName, { dividedBy }: Times): Lane {
  const at = { node, link };
  const halfOpen = (direction: 'up' | 'down'): Maker => {
    return (random) => ({
      ...{ kind: 'link half-open', ...at, direction, silently: random.chance(0.4) },
      ms: random.between(200, 8_000 / dividedBy),
    });
  };
  return {
    faults: [
      (random) => ({
        kind: 'link delayed',
        ...at,
        jitterMs: random.between(1, 40),
        ms: random.between(100, 1_000),
      }),
      () => ({ kind: 'link cut', ...at, ms: 0 }),
      (random) => ({ kind: 'link refused', ...at, ms: random.between(50, 1_000) }),
      (random) => ({ kind: 'link stalled', ...at, ms: random.between(20, 900) }),
      halfOpen('up'),
      halfOpen('down'),
    ],
    quietMs: [50, 500],
  };
}

export const kill =
  (node: number, step: Step): Maker =>
  (random) => ({ kind: `SIGKILL ${step}`, node, step, ms: random.between(0, 400) });

/** Longer than any lease or fence. */
export const stop =
  (node: number, { fenceMs }: Times): Maker =>
  (random) => ({ kind: 'SIGSTOP', node, ms: Math.round(fenceMs * (1.1 + 0.2 * random.next())) });

/** SIGKILL at each step whose order is sure, and SIGSTOP, dealt out to the nodes. */
export function nodeLanes(nodes: number, times: Times, kinds: { readonly stops: boolean }): Lane[] {
  const lanes: Maker[][] = Array.from({ length: nodes }, () => []);
  if (kinds.stops) lanes[0]?.push(stop(0, times));
  for (const [index, step] of STEPS.filter((it) => it !== 'commit sent').entries()) {
    const node = nodes - 1 - (index % nodes);
    lanes[node]?.push(kill(node, step));
  }
  return lanes.map((faults) => ({ faults, quietMs: [100, 700] }));
}

/** Every node, with everything that can befall it. */
export function hardNodeLanes(nodes: number, times: Times): Lane[] {
  return Array.from({ length: nodes }, (_, node) => ({
    faults: [stop(node, times), ...STEPS.map((step) => kill(node, step))],
    quietMs: [200, 4_000],
  }));
}

const lasting =
  (kind: ServerFault, least: number, most: number): Maker =>
  (random) => ({ kind, ms: random.between(least, most) });

export const redisLane: Lane = {
  faults: [
    lasting('Redis hangs', 50, 1_000),
    lasting('Redis back empty', 20, 500),
    lasting('Redis back with an old dataset', 50, 400),
    lasting('outage', 300, 1_200),
  ],
  quietMs: [300, 1_200],
};

export const evictionLane: Lane = {
  faults: [lasting('FLUSHALL', 0, 0), lasting('evictions', 50, 300)],
  quietMs: [200, 1_000],
};

export const listenLane: Lane = { faults: [lasting('LISTEN cut', 0, 0)], quietMs: [300, 1_500] };

export const failoverLane: Lane = {
  faults: [
    lasting('failover by hand', 0, 0),
    lasting('master killed', 0, 0),
    lasting('master hangs', 0, 0),
  ],
  quietMs: [300, 2_000],
};

/** Passes through a lane, one fault after the other, each after its quiet time. */
export function* along(
  lane: Lane,
  random: Random,
  calm: number,
): Generator<{ quietMs: number; fault: Fault }> {
  for (;;) {
    for (const make of random.shuffled(lane.faults)) {
      yield { quietMs: Math.round(random.between(...lane.quietMs) * calm), fault: make(random) };
    }
  }
}
