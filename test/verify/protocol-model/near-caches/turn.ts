/** What the tables of steps have in common: an actor's turn, and small changes of the state. */
import {
  type Budgets,
  has,
  Marker,
  MARKER_WAIT,
  type Node,
  RenewalAt,
  type Setup,
  type State,
  withBit,
  withoutBit,
  type Writer,
  writerAt,
} from './state.js';

/** What a read returned, and the oldest version that it may return. */
export interface Answer {
  readonly version: number;
  readonly owed: number;
}

export interface Turn {
  readonly setup: Setup;
  readonly state: State;
  /** The index of the node or writer. */
  readonly actor: number;
  /** Offers a step; an `answer` is checked against the promises. */
  take(words: string, next: Partial<State>, answer?: Answer): void;
}

export type Steps = Readonly<Record<string, (turn: Turn) => void>>;

export const withNode = (
  state: Pick<State, 'nodes'>,
  index: number,
  change: Partial<Node>,
): Pick<State, 'nodes'> => ({
  nodes: state.nodes.with(index, { ...(state.nodes[index] as Node), ...change }),
});

export const withWriter = (
  state: State,
  index: number,
  change: Partial<Writer>,
): Pick<State, 'writers'> => ({
  writers: state.writers.with(index, { ...writerAt(state, index), ...change }),
});

export const spend = (state: State, budget: keyof Budgets): Pick<State, 'left'> => ({
  left: { ...state.left, [budget]: state.left[budget] - 1 },
});

export const acknowledge = (state: State, version: number): Pick<State, 'acknowledged'> => ({
  acknowledged: Math.max(state.acknowledged, version),
});

/** From now on `wait` counts: each lease that was asked for until now is one from before. */
export const beginWait = (state: State, wait: number): Pick<State, 'nodes'> => ({
  nodes: state.nodes.map((node, index) => ({
    ...node,
    leaseBefore: node.hasLease ? withBit(node.leaseBefore, wait) : node.leaseBefore,
    renewalBefore:
      node.renewal === RenewalAt.None ? node.renewalBefore : withBit(node.renewalBefore, wait),
    unrenewed: has(state.listed, index) ? withBit(node.unrenewed, wait) : node.unrenewed,
  })),
});

/** Whether a lease's time may have passed since the wait began. */
export const mayWaitEnd = (state: State, wait: number): boolean =>
  state.nodes.every((node) => !has(node.leaseBefore | node.renewalBefore, wait));

export const endWait = (state: Pick<State, 'nodes'>, wait: number): Pick<State, 'nodes'> => ({
  nodes: state.nodes.map((node) => ({
    ...node,
    leaseBefore: withoutBit(node.leaseBefore, wait),
    renewalBefore: withoutBit(node.renewalBefore, wait),
  })),
});

/** Whoever uses the list finds that it is new, and begins to count. */
export function findList(setup: Setup, state: State): Pick<State, 'nodes' | 'marker'> {
  if (state.marker !== Marker.Lost) return { nodes: state.nodes, marker: state.marker };
  if (!setup.parts.wholeAfterLease) return { nodes: state.nodes, marker: Marker.Whole };
  return { ...beginWait(state, MARKER_WAIT), marker: Marker.Seen };
}

export const mayRead = ({ parts }: Setup, node: Node): boolean =>
  node.isOpen || !parts.gateBeforeNear;

export const nameOfNode = (index: number): string => `node ${'AB'[index]}`;

export const hasAnyOpenGate = ({ nodes }: State): boolean => nodes.some(({ isOpen }) => isOpen);
