/**
 * What goes wrong in a round, and when: a schedule that the seed alone decides. Faults of one thing (a link, a process, the
 * Redis server) follow each other; those of different things overlap, which is where the interesting histories are.
 */
import { type Step, STEPS } from './history.js';
import type { Random } from './random.js';

export type Fault = { readonly at: number; readonly ms: number } & (
  | { readonly kind: 'delay'; readonly node: number; readonly link: LinkName; readonly jitterMs: number }
  | { readonly kind: 'cut' | 'refuse' | 'stall'; readonly node: number; readonly link: LinkName }
  | {
      readonly kind: 'half-open';
      readonly node: number;
      readonly link: LinkName;
      readonly direction: 'up' | 'down';
      readonly silently: boolean;
    }
  | { readonly kind: 'die'; readonly node: number; readonly step: Step }
  | { readonly kind: 'kill' | 'stop'; readonly node: number }
  | { readonly kind: 'outage' | 'redis hangs' | 'redis restarts empty' | 'redis restarts old' | 'flush' | 'evict' }
  | { readonly kind: 'listeners cut' }
);
export type FaultKind = Fault['kind'];
export type LinkName = 'redis' | 'postgres';

/** Which faults a round has: how likely each is within its lane, and the mean quiet time in each lane. */
export interface Weather {
  readonly ms: number;
  readonly nodes: number;
  readonly quietMs: Readonly<Record<Lane, number>>;
  readonly weights: Readonly<Partial<Record<FaultKind, number>>>;
  /** How long a node is stopped; and how long what is half-open stays so. */
  readonly stopMs: readonly [number, number];
  readonly halfOpenMs: readonly [number, number];
}
export type Lane = 'link' | 'node' | 'redis' | 'postgres' | 'evictions';

const LANES: Readonly<Record<Lane, readonly FaultKind[]>> = {
  link: ['delay', 'cut', 'refuse', 'stall', 'half-open'],
  node: ['die', 'kill', 'stop'],
  redis: ['redis hangs', 'redis restarts empty', 'redis restarts old', 'outage'],
  evictions: ['flush', 'evict'],
  postgres: ['listeners cut'],
};

export function schedule(weather: Weather, random: Random): Fault[] {
  const faults: Fault[] = [];
  const lane = (name: Lane, label: string, make: (at: number, kind: FaultKind, random: Random) => Fault): void => {
    const kinds = LANES[name].flatMap((kind) => Array.from({ length: weather.weights[kind] ?? 0 }, () => kind));
    if (kinds.length === 0) return;
    const own = random.fork(label);
    const quiet = (): number => 50 - Math.log(1 - own.next()) * weather.quietMs[name];
    for (let at = quiet(); at < weather.ms;) {
      const fault = make(Math.round(at), own.pick(kinds), own);
      faults.push(fault);
      at += fault.ms + quiet();
    }
  };
  for (let node = 0; node < weather.nodes; node++) {
    for (const link of ['redis', 'postgres'] as const) {
      lane('link', `${link} of ${node}`, (at, kind, own) => linkFault(at, kind, node, link, own, weather));
    }
    lane('node', `node ${node}`, (at, kind, own): Fault => {
      if (kind === 'die') return { at, kind, node, step: own.pick(STEPS), ms: own.between(100, 800) };
      const ms = kind === 'stop' ? own.between(...weather.stopMs) : own.between(0, 500);
      return { at, kind: kind as 'kill' | 'stop', node, ms };
    });
  }
  const DURATION: Partial<Record<FaultKind, [number, number]>> = {
    'redis hangs': [50, 1_500],
    'redis restarts empty': [50, 1_000],
    'redis restarts old': [50, 500],
    outage: [500, 2_000],
    evict: [0, 150],
  };
  for (const name of ['redis', 'evictions', 'postgres'] as const) {
    lane(name, name, (at, kind, own) => ({ at, kind, ms: own.between(...(DURATION[kind] ?? [0, 0])) }) as Fault);
  }
  return faults.sort((one, other) => one.at - other.at);
}

function linkFault(at: number, kind: FaultKind, node: number, link: LinkName, own: Random, weather: Weather): Fault {
  switch (kind) {
    case 'delay':
      return { at, kind, node, link, jitterMs: own.between(1, 40), ms: own.between(100, 1_500) };
    case 'half-open': {
      const direction = own.pick(['up', 'down'] as const);
      return { at, kind, node, link, direction, silently: own.chance(0.4), ms: own.between(...weather.halfOpenMs) };
    }
    case 'refuse':
      return { at, kind, node, link, ms: own.between(50, 1_500) };
    case 'stall':
      return { at, kind, node, link, ms: own.between(20, 900) };
    default:
      return { at, kind: 'cut', node, link, ms: 0 };
  }
}
