/** Everything that the models claim, in the order of the table. The tests and run.ts explore it. */
import { SCENARIOS } from './many-nodes/scenarios.js';
import { systemOf as systemOfNodes } from './many-nodes/system.js';
import { systemOf as systemOfKey } from './one-key/system.js';
import { SCENARIOS as NEAR_SCENARIOS } from './near-caches/scenarios.js';
import { systemOf as systemOfNearCaches } from './near-caches/system.js';
import { type Outcome, VARIANTS } from './one-key/variants.js';
import { type Exploration, exploreStates, type StateSystem } from './state-space.js';

export interface Claim {
  readonly model: 'one key' | 'several nodes' | 'near caches';
  readonly name: string;
  /** `holds`, or the promise that must break. */
  readonly expected: Outcome;
  /** Only in the long form, for its size. */
  readonly isLong: boolean;
  readonly explore: () => Finding;
}

export interface Finding {
  readonly outcome: Outcome;
  readonly states: number;
  /** The names of the steps that were taken. */
  readonly stepNames: ReadonlySet<string>;
  /** The shortest way to the violation, one line a step; empty when the claim holds. */
  readonly trace: readonly string[];
}

const PROMISES: readonly Outcome[] = ['G1', 'G3', 'agreement', 'progress'];

function findingOf<State>(system: StateSystem<State>): Finding {
  const { violation, trace, states, stepNames }: Exploration<State> = exploreStates(system);
  const broken = PROMISES.find((promise) => violation?.startsWith(`${promise}:`));
  const width = Math.max(0, ...trace.map(({ words }) => words.length));
  const lines = trace.map(({ words, state }, index) => {
    const number = String(index + 1).padStart(3);
    return `${number}. ${words.padEnd(width)}  [${system.show(state)}]`;
  });
  return {
    outcome: broken ?? 'holds',
    states,
    stepNames,
    trace: violation === undefined ? [] : [...lines, `     ${violation}`],
  };
}

const ONE_KEY: readonly Claim[] = VARIANTS.map(({ name, expected, isLong, protocol }) => ({
  model: 'one key',
  name,
  expected,
  isLong,
  explore: () => findingOf(systemOfKey(protocol)),
}));

const SEVERAL_NODES: readonly Claim[] = SCENARIOS.flatMap(({ name, setup, isLong, ablations }) => [
  {
    model: 'several nodes' as const,
    name,
    expected: 'holds' as const,
    isLong,
    explore: () => findingOf(systemOfNodes(setup)),
  },
  ...ablations.map(({ name: what, part, breaks, isLong: isLongAblation }) => ({
    model: 'several nodes' as const,
    name: `${name}; without ${part}: ${what}`,
    expected: breaks,
    isLong: isLongAblation,
    explore: () => {
      const parts = { ...setup.parts, [part]: false };
      return findingOf(systemOfNodes({ ...setup, parts }));
    },
  })),
]);

const NEAR_CACHES: readonly Claim[] = NEAR_SCENARIOS.flatMap(
  ({ name, setup, isLong, ablations }) => [
    {
      model: 'near caches' as const,
      name,
      expected: 'holds' as const,
      isLong,
      explore: () => findingOf(systemOfNearCaches(setup)),
    },
    ...ablations.map(({ name: what, part, breaks, isLong: isLongAblation }) => ({
      model: 'near caches' as const,
      name: `${name}; without ${part}: ${what}`,
      expected: breaks,
      isLong: isLongAblation,
      explore: () => {
        const parts = { ...setup.parts, [part]: false };
        return findingOf(systemOfNearCaches({ ...setup, parts }));
      },
    })),
  ],
);

export const CLAIMS: readonly Claim[] = [...ONE_KEY, ...SEVERAL_NODES, ...NEAR_CACHES];
