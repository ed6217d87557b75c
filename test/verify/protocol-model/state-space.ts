/**
 * Breadth-first exploration of every interleaving: each reachable state is visited once, and a broken promise comes with the
 * shortest way to it. "Holds" therefore means: no sequence of steps within the budgets, of any length, breaks the promise.
 */
import { type Step, successors } from './protocol.model.js';
import { encode, initial, type Protocol, showCell, type State } from './protocol.state.js';

export interface Exploration {
  /** Undefined: the protocol holds. */
  readonly violation: string | undefined;
  /** The steps that lead to the violation; empty when there is none. */
  readonly trace: readonly Step[];
  /** Distinct states reached: all there are when the protocol holds, else those up to the violation. */
  readonly states: number;
  /** Steps taken, also those that led to a known state. */
  readonly steps: number;
  readonly seconds: number;
}

/** Explores `protocol` from its initial state, until a promise is broken or nothing is left to explore. */
export function explore(protocol: Protocol): Exploration {
  const began = performance.now();
  const first = initial(protocol);
  const places = new Map<string, number>([[encode(first), 0]]);
  const parents = [0];
  let steps = 0;
  const done = (trace: readonly Step[]): Exploration => ({
    violation: trace.at(-1)?.violation,
    trace,
    states: places.size,
    steps,
    seconds: (performance.now() - began) / 1000,
  });

  let frontier: { place: number; state: State }[] = [{ place: 0, state: first }];
  while (frontier.length > 0) {
    const next: typeof frontier = [];
    for (const { place, state } of frontier) {
      for (const step of successors(protocol, state)) {
        steps++;
        if (step.violation) return done(traceTo(protocol, [...places.keys()], parents, place));
        const key = encode(step.state);
        if (places.has(key)) continue;
        parents.push(place);
        next.push({ place: places.size, state: step.state });
        places.set(key, places.size);
      }
    }
    frontier = next;
  }
  return done([]);
}

/** Only each state's parent is kept; the steps between are found again, and the one that breaks the promise. */
function traceTo(
  protocol: Protocol,
  keys: readonly string[],
  parents: readonly number[],
  place: number,
): Step[] {
  const way: string[] = [];
  for (let at = place; at !== 0; at = parents[at] as number) way.unshift(keys[at] as string);
  const trace: Step[] = [];
  let state = initial(protocol);
  for (const key of way) {
    const step = successors(protocol, state).find(
      (candidate) => encode(candidate.state) === key,
    ) as Step;
    trace.push(step);
    state = step.state;
  }
  return [...trace, successors(protocol, state).find((step) => step.violation) as Step];
}

/** A trace, one numbered line a step, each with the key and the committed version after it. */
export function tell({ violation, trace }: Exploration): string {
  const lines = trace.map(({ words, state }, index) => {
    const committed = state.row === 0 ? 0 : (state.writers[state.row - 1]?.version ?? 0);
    return `${String(index + 1).padStart(4)}. ${words.padEnd(72)} key ${showCell(state.cell).padEnd(8)} committed ${committed}`;
  });
  return [...lines, `      ${violation ?? 'holds'}`].join('\n');
}
