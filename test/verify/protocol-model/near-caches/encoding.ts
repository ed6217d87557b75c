/**
 * A state as small whole numbers, for the store of known states. What cannot matter any more is
 * left out, so that states that differ only in it are one state.
 */
import { ABSENT, BEYOND, type Cell } from '../scripts.js';
import { RenewalAt, type Setup, type State, WriterAt } from './state.js';
import { entryOf } from './writer-steps.js';

const VERSION = 2;
const NODES = 2;
const REVOCATIONS = 4;
const WAITS = 3;
const LIST = 2;
const NODE_WIDTHS = [
  1,
  1,
  2,
  2,
  2,
  LIST,
  LIST,
  1,
  REVOCATIONS,
  REVOCATIONS,
  WAITS,
  WAITS,
  WAITS,
  2,
  VERSION,
];
const WRITER_WIDTHS = [4, VERSION, NODES, 1];
const CELL_WIDTH = 5;

export const fieldWidths = ({ nodes, writers }: Setup): number[] => [
  ...[VERSION, VERSION, VERSION, 1, CELL_WIDTH, 2, LIST, 2, NODES, REVOCATIONS, REVOCATIONS],
  ...Array.from({ length: nodes }, () => NODE_WIDTHS).flat(),
  ...writers.flatMap(() => WRITER_WIDTHS),
  ...[2, 2, 2, 2],
];

export function toFields(setup: Setup, state: State, target: Uint8Array): void {
  let next = 0;
  const push = (...values: number[]): void => {
    for (const value of values) target[next++] = value;
  };
  const { cell, left } = state;
  push(state.row, state.acknowledged, state.seen, state.isEnqueued ? 1 : 0, numberOf(cell));
  push(state.loaded, state.list, state.marker, state.listed, state.numbered, state.sent);
  const removers = removersOf(state);
  for (const node of state.nodes) {
    const isRun = node.renewal === RenewalAt.Run;
    push(node.isOpen ? 1 : 0, node.hasLease ? 1 : 0, node.entry, node.fetched, node.renewal);
    push(node.list, isRun ? node.foundList : 0);
    push(
      isRun && node.wasListed && !setup.parts.listsHaveNames ? 1 : 0,
      isRun ? node.numbered : 0,
      node.processed & state.sent,
    );
    push(node.hasLease ? node.leaseBefore : 0);
    push(node.renewal === RenewalAt.None ? 0 : node.renewalBefore);
    push(node.unrenewed & removers, node.found, node.owed);
  }
  for (const writer of state.writers) {
    // Later it only says whom the writer may remove from the list.
    const awaited = isWaiting(writer.at) ? writer.awaited : writer.awaited & state.listed;
    push(writer.at, writer.version, awaited, writer.awaitsAll ? 1 : 0);
  }
  push(left.crashes, left.keyLosses, left.listLosses, left.moves);
  if (next !== fieldWidths(setup).length) throw new Error('The fields do not fit their widths');
}

export function fromFields(setup: Setup, fields: Uint8Array): State {
  let next = 0;
  const take = (): number => fields[next++] as number;
  const [row, acknowledged, seen, isEnqueued, cell] = [take(), take(), take(), take(), take()];
  const [loaded, list, marker] = [take(), take(), take()];
  const [listed, numbered, sent] = [take(), take(), take()];
  const nodes = Array.from({ length: setup.nodes }, () => ({
    isOpen: take() === 1,
    hasLease: take() === 1,
    entry: take(),
    fetched: take(),
    renewal: take(),
    list: take(),
    foundList: take(),
    wasListed: take() === 1,
    numbered: take(),
    processed: take(),
    leaseBefore: take(),
    renewalBefore: take(),
    unrenewed: take(),
    found: take(),
    owed: take(),
  }));
  const writers = setup.writers.map(() => ({
    at: take(),
    version: take(),
    awaited: take(),
    awaitsAll: take() === 1,
  }));
  const left = { crashes: take(), keyLosses: take(), listLosses: take(), moves: take() };
  return {
    row,
    acknowledged,
    seen,
    isEnqueued: isEnqueued === 1,
    cell: cellOf(cell),
    loaded,
    list,
    marker,
    listed,
    numbered,
    sent,
    nodes,
    writers,
    left,
  };
}

const isWaiting = (at: WriterAt): boolean =>
  at === WriterAt.Revoked || at === WriterAt.RevokedAgain;

/** The writers that may still remove a node from the list, one bit each. */
function removersOf(state: State): number {
  let removers = 0;
  state.writers.forEach(({ at, awaited }, index) => {
    const isActive = at !== WriterAt.Idle && (awaited & state.listed) !== 0;
    if (isActive) removers |= 1 << index;
  });
  return removers;
}

const FIRST_ENTRY = 2;
const FIRST_FENCE = 5;
const FLOORS = [0, 1, 2, BEYOND];
const TOKENS: readonly (readonly number[])[] = [[1], [2], [1, 2], [2, 1]];

function numberOf(cell: Cell): number {
  switch (cell.is) {
    case 'absent':
      return 0;
    case 'lease':
      return 1;
    case 'entry':
      return FIRST_ENTRY + cell.version;
    case 'fence': {
      const tokens = TOKENS.findIndex((known) => known.join() === cell.tokens.join());
      return FIRST_FENCE + tokens * FLOORS.length + FLOORS.indexOf(cell.floor);
    }
  }
}

function cellOf(number: number): Cell {
  if (number === 0) return ABSENT;
  if (number === 1) return { is: 'lease', reader: 1 };
  if (number < FIRST_FENCE) return entryOf(number - FIRST_ENTRY);
  const fence = number - FIRST_FENCE;
  return {
    is: 'fence',
    floor: FLOORS[fence % FLOORS.length] as number,
    tokens: TOKENS[Math.floor(fence / FLOORS.length)] as readonly number[],
  };
}
