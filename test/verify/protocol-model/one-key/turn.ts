/** What the tables of steps have in common: an actor's turn, and small changes of the state. */
import {
  type Budgets,
  IDLE_READER,
  type Protocol,
  type Reader,
  readerAt,
  type State,
  versionOf,
  type Writer,
  writerAt,
} from './protocol.js';

/** The author of the row that a read answers with, and the version that is owed to it. */
export interface Answer {
  readonly author: number;
  readonly since: number;
}

export interface Turn {
  readonly protocol: Protocol;
  readonly state: State;
  /** The number of the writer or reader. */
  readonly actor: number;
  /** Offers a step; an `answer` is checked against the promises. */
  take(words: string, next: Partial<State>, answer?: Answer): void;
}

export type Steps = Readonly<Record<string, (turn: Turn) => void>>;

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

export const stillReading = (
  state: State,
  number: number,
  change: Partial<Reader>,
): Pick<State, 'readers'> => ({
  readers: state.readers.with(number - 1, { ...readerAt(state, number), ...change }),
});

export const spend = (state: State, budget: keyof Budgets): Pick<State, 'left'> => ({
  left: { ...state.left, [budget]: state.left[budget] - 1 },
});

export const acknowledge = (state: State, author: number): Pick<State, 'acknowledged'> => ({
  acknowledged: Math.max(state.acknowledged, versionOf(state, author)),
});

export const showRow = (state: State, author: number): string =>
  `version ${versionOf(state, author)}`;
