/**
 * What the tables of steps have in common: an actor's turn, and small changes of the state. Each
 * table names its steps; a step offers itself in a state by calling `take`.
 */
import type { Cell } from '../scripts.js';
import {
  type Budgets,
  type Database,
  IDLE_READER,
  isLost,
  maxEpochs,
  NO_PLACE,
  type Node,
  nodeAt,
  type Reader,
  type Setup,
  type State,
  versionOf,
  type Writer,
  writerAt,
} from './state.js';

/** An answer out of the cache. */
export interface Answer {
  readonly author: number;
  /** The newest version that was acknowledged when the read began. */
  readonly since: number;
  /** The PostgreSQL server of the node's session when the read began. */
  readonly session: number;
}

export interface Turn {
  readonly setup: Setup;
  readonly state: State;
  /** The number of the node, writer or reader. */
  readonly actor: number;
  /** Offers a step; an `answer` is checked against the promises. */
  take(words: string, next: Partial<State>, answer?: Answer): void;
}

export type Steps = Readonly<Record<string, (turn: Turn) => void>>;

export const withDatabase = (
  { database }: State,
  change: Partial<Database>,
): Pick<State, 'database'> => ({ database: { ...database, ...change } });

export const withRegistration = (
  state: State,
  index: number,
  epoch: number,
): Pick<State, 'database'> =>
  withDatabase(state, { registry: state.database.registry.with(index, epoch) });

export const withNode = (
  state: State,
  index: number,
  change: Partial<Node>,
): Pick<State, 'nodes'> => ({
  nodes: state.nodes.with(index, { ...nodeAt(state, index), ...change }),
});

export const withWriter = (
  state: State,
  number: number,
  change: Partial<Writer>,
): Pick<State, 'writers'> => ({
  writers: state.writers.with(number - 1, { ...writerAt(state, number), ...change }),
});

/** What `change` does not name is as in an idle reader. */
export const withReader = (
  state: State,
  number: number,
  change: Partial<Reader>,
): Pick<State, 'readers'> => ({
  readers: state.readers.with(number - 1, { ...IDLE_READER, ...change }),
});

/** A step on no place changes nothing. */
export const withCell = (state: State, place: number, cell: Cell): Pick<State, 'cells'> => ({
  cells: place === NO_PLACE ? state.cells : state.cells.with(place - 1, cell),
});

export const spend = (state: State, ...budgets: (keyof Budgets)[]): Pick<State, 'left'> => ({
  left: {
    ...state.left,
    ...Object.fromEntries(budgets.map((budget) => [budget, state.left[budget] - 1])),
  },
});

/** What PostgreSQL has lost meanwhile is acknowledged all the same, but nothing is owed for it. */
export const acknowledge = (state: State, author: number): Pick<State, 'acknowledged'> => ({
  acknowledged: isLost(state, author)
    ? state.acknowledged
    : Math.max(state.acknowledged, versionOf(state, author)),
});

export const isNobodyRegistered = ({ database }: State): boolean =>
  database.registry.every((epoch) => epoch === 0);

/** The bit of this writer's row in the table. */
export const rowOf = (writer: number): number => 1 << (writer - 1);

export const nameOfNode = (index: number): string => `node ${'ABCD'[index] ?? index}`;

const nameOfIncarnation = (incarnation: number): string => 'XYZ'[incarnation] ?? `${incarnation}`;

/** A name in a few letters: `X/2` is incarnation X in epoch 2. */
export function showPlace(setup: Setup, place: number): string {
  if (place === NO_PLACE) return 'nowhere';
  const index = place - 1;
  if (!setup.parts.namesCarryEpoch) return nameOfIncarnation(index);
  const epochs = maxEpochs(setup);
  return `${nameOfIncarnation(Math.floor(index / epochs))}/${(index % epochs) + 1}`;
}

export const showIncarnation = nameOfIncarnation;

export function showRows(rows: number): string {
  if (rows === 0) return 'no row';
  const numbers = [1, 2, 3].filter((number) => (rows & rowOf(number)) !== 0);
  return `row ${numbers.join(' and row ')}`;
}
