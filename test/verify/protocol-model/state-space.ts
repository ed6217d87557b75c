/**
 * Breadth-first exploration of a system of states: each reachable state is visited once, and a
 * broken promise comes with the shortest way to it. "Holds" therefore means: no sequence of steps
 * within the budgets, of any length, breaks a promise.
 */
import { StateSet } from './state-set.js';

/** One step of one actor. */
export interface Step<State> {
  /** The step's name in the table of steps. */
  readonly name: string;
  /** What happened, for traces. */
  readonly words: string;
  /** The state after it. */
  readonly state: State;
  /** The promise that this step breaks. */
  readonly violation: string | undefined;
}

/** What is explored. */
export interface StateSystem<State> {
  readonly initial: State;
  /** Every step that an actor could take in `state`. */
  successors(state: State): Step<State>[];
  /** How many bits each field of a state takes, at most 8. */
  readonly widths: readonly number[];
  /** Writes the state as small whole numbers. States with equal fields are one state. */
  toFields(state: State, fields: Uint8Array): void;
  fromFields(fields: Uint8Array): State;
  /** The state in a few words, for traces. */
  show(state: State): string;
  /**
   * Whether all that was begun has ended. If present, such a state must be reachable from every
   * state: a system that stands still forever keeps every promise.
   */
  isAtRest?(state: State): boolean;
}

export interface Exploration<State> {
  /** Undefined: the system keeps its promises in every reachable state. */
  readonly violation: string | undefined;
  /** The steps that lead to the violation; empty when there is none. */
  readonly trace: readonly Step<State>[];
  /** Distinct states found. */
  readonly states: number;
  /** Steps taken, also those that led to a known state. */
  readonly steps: number;
  /** The names of the steps that were taken. */
  readonly stepNames: ReadonlySet<string>;
}

/** Explores `system` until a promise is broken or nothing is left to explore. */
export function exploreStates<State>(system: StateSystem<State>): Exploration<State> {
  const known = new StateSet(system.widths);
  const graph = system.isAtRest ? new Graph() : undefined;
  const fields = new Uint8Array(system.widths.length);
  const stepNames = new Set<string>();
  let steps = 0;
  system.toFields(system.initial, fields);
  known.add(fields, 0);
  const broken = (violation: string, trace: readonly Step<State>[]): Exploration<State> => ({
    violation,
    trace,
    states: known.size,
    steps,
    stepNames,
  });
  // States are found in the order in which they are expanded: their store is also the queue.
  for (let place = 0; place < known.size; place++) {
    for (const step of system.successors(system.fromFields(known.fieldsAt(place)))) {
      steps++;
      stepNames.add(step.name);
      if (step.violation !== undefined) {
        return broken(step.violation, [...traceTo(system, known, place), step]);
      }
      system.toFields(step.state, fields);
      const next = known.add(fields, place);
      graph?.addEdge(next);
    }
    graph?.endState();
  }
  const deadEnd = graph && findDeadEnd(system, known, graph);
  if (deadEnd !== undefined) {
    return broken(
      'progress: from here nobody can bring the system to rest',
      traceTo(system, known, deadEnd),
    );
  }
  return { violation: undefined, trace: [], states: known.size, steps, stepNames };
}

/** Only each state's parent is kept; the steps between them are found again. */
function traceTo<State>(system: StateSystem<State>, known: StateSet, place: number): Step<State>[] {
  const way: string[] = [];
  for (let at = place; at !== 0; at = known.parentOf(at)) {
    way.unshift(known.fieldsAt(at).join());
  }
  const trace: Step<State>[] = [];
  const fields = new Uint8Array(system.widths.length);
  let state = system.initial;
  for (const wanted of way) {
    const step = system.successors(state).find((candidate) => {
      system.toFields(candidate.state, fields);
      return fields.join() === wanted;
    });
    if (!step) throw new Error('A state was reached by a step that does not lead to it');
    trace.push(step);
    state = system.fromFields(fields);
  }
  return trace;
}

/** The first state from which no state of rest can be reached. */
function findDeadEnd<State>(
  system: StateSystem<State>,
  known: StateSet,
  graph: Graph,
): number | undefined {
  const canRest = new Uint8Array(known.size);
  const pending: number[] = [];
  for (let place = 0; place < known.size; place++) {
    if (system.isAtRest?.(system.fromFields(known.fieldsAt(place)))) {
      canRest[place] = 1;
      pending.push(place);
    }
  }
  const predecessors = graph.reversed();
  for (let place = pending.pop(); place !== undefined; place = pending.pop()) {
    for (const before of predecessors.of(place)) {
      if (canRest[before] === 1) continue;
      canRest[before] = 1;
      pending.push(before);
    }
  }
  const deadEnd = canRest.indexOf(0);
  return deadEnd < 0 ? undefined : deadEnd;
}

/** Which states a step leads to, from each state, in the order in which states are expanded. */
class Graph {
  private targets = new Uint32Array(1 << 12);
  private edges = 0;
  /** Where each state's edges begin, and at last where they end. */
  private readonly starts = [0];

  addEdge(target: number): void {
    if (this.edges === this.targets.length) {
      const grown = new Uint32Array(this.targets.length * 2);
      grown.set(this.targets);
      this.targets = grown;
    }
    this.targets[this.edges] = target;
    this.edges++;
  }

  endState(): void {
    this.starts.push(this.edges);
  }

  reversed(): { of(place: number): Uint32Array } {
    const { targets, starts, edges } = this;
    const count = starts.length - 1;
    const ends = new Uint32Array(count + 1);
    for (let edge = 0; edge < edges; edge++) ends[targets[edge] as number]!++;
    for (let place = 1; place <= count; place++) ends[place]! += ends[place - 1] as number;
    // Filled from behind, so each state's end becomes its start.
    const sources = new Uint32Array(edges);
    for (let place = count - 1; place >= 0; place--) {
      for (let edge = starts[place + 1]! - 1; edge >= starts[place]!; edge--) {
        const target = targets[edge] as number;
        ends[target]!--;
        sources[ends[target] as number] = place;
      }
    }
    return { of: (place) => sources.subarray(ends[place], ends[place + 1]) };
  }
}
