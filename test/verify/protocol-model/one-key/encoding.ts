/**
 * A state of one key as small whole numbers, for the store of known states. Readers are alike, so
 * states that differ only in which reader is which are one state; so are states that differ only in
 * what cannot matter any more.
 */
import { ABSENT, type Cell } from '../scripts.js';
import {
  type Budgets,
  IDLE_READER,
  type Protocol,
  type Reader,
  ReaderAt,
  type Repetition,
  type State,
  type Writer,
  type WriterAt,
} from './protocol.js';

const BUDGETS: readonly (keyof Budgets)[] = [
  'crashes',
  'stalls',
  'flushes',
  'failedPublications',
  'failedFences',
  'unansweredCommits',
  'failovers',
  'failbacks',
];
const REPETITION_AT: readonly Repetition['at'][] = ['idle', 'fenced', 'deleted', 'done'];
const CELL_IS = ['absent', 'lease', 'entry', 'fence'] as const;
/** Up to three writers, and the token of a deletion. */
const MAX_TOKENS = 4;
/** A reader that has gone: its lease and its claim stay. */
const GONE = 7;

const NUMBER = 2;
const READER_NUMBER = 3;
const CELL_WIDTHS = [
  2,
  READER_NUMBER,
  NUMBER,
  3,
  1,
  ...Array.from({ length: MAX_TOKENS }, () => 3),
];

export function fieldWidths({ writers, readers }: Protocol): number[] {
  return [
    ...[NUMBER, NUMBER, NUMBER, NUMBER, 3],
    ...CELL_WIDTHS,
    ...CELL_WIDTHS,
    ...writers.flatMap(() => [4, NUMBER, 1]),
    ...Array.from({ length: readers }, () => [3, NUMBER, 3, NUMBER]).flat(),
    ...[2, NUMBER, 1, 1],
    ...BUDGETS.map(() => NUMBER),
  ];
}

export function toFields(protocol: Protocol, original: State, target: Uint8Array): void {
  const state = normalized(protocol, original);
  let next = 0;
  const push = (...values: number[]): void => {
    for (const value of values) target[next++] = value;
  };
  push(state.row, state.lock, state.acknowledged, state.seen, state.generation);
  pushCell(push, state.cell);
  pushCell(push, state.copy);
  for (const { at, version, isUnfenced } of state.writers) push(at, version, isUnfenced ? 1 : 0);
  for (const { at, since, generation, author } of state.readers) {
    push(at, since, generation, author);
  }
  const { repetition, hasRows, isRowFenced, left } = state;
  push(REPETITION_AT.indexOf(repetition.at), repetition.writer);
  push(hasRows ? 1 : 0, isRowFenced ? 1 : 0);
  for (const budget of BUDGETS) push(left[budget]);
}

export function fromFields(protocol: Protocol, fields: Uint8Array): State {
  let next = 0;
  const take = (): number => fields[next++] as number;
  const [row, lock, acknowledged, seen, generation] = [take(), take(), take(), take(), take()];
  const cell = takeCell(take);
  const copy = takeCell(take);
  const writers = protocol.writers.map((): Writer => ({
    at: take() as WriterAt,
    version: take(),
    isUnfenced: take() === 1,
  }));
  const readers = Array.from({ length: protocol.readers }, (): Reader => ({
    at: take() as ReaderAt,
    since: take(),
    generation: take(),
    author: take(),
  }));
  const repetition = { at: REPETITION_AT[take()] as Repetition['at'], writer: take() };
  const [hasRows, isRowFenced] = [take() === 1, take() === 1];
  const left = Object.fromEntries(BUDGETS.map((budget) => [budget, take()])) as unknown as Budgets;
  return {
    row,
    lock,
    acknowledged,
    seen,
    cell,
    copy,
    generation,
    writers,
    readers,
    repetition,
    hasRows,
    isRowFenced,
    left,
  };
}

function pushCell(push: (...values: number[]) => void, cell: Cell): void {
  const reader = readerOf(cell);
  push(CELL_IS.indexOf(cell.is), reader);
  const isEntry = cell.is === 'entry';
  const isFence = cell.is === 'fence';
  push(isEntry ? cell.author : 0, isFence ? cell.floor : 0);
  push(isEntry && cell.none ? 1 : 0);
  const tokens = isFence ? cell.tokens : [];
  // An entry's version is not always its author's: what a reader fills of a missing row has none.
  if (isEntry) push(cell.version, 0, 0, 0);
  else push(tokens[0] ?? 0, tokens[1] ?? 0, tokens[2] ?? 0, tokens[3] ?? 0);
}

function takeCell(take: () => number): Cell {
  const is = CELL_IS[take()];
  const [reader, author, floor, none] = [take(), take(), take(), take()];
  const rest = [take(), take(), take(), take()];
  switch (is) {
    case 'lease':
      return { is, reader };
    case 'entry':
      return {
        is,
        author,
        version: rest[0] as number,
        none: none === 1,
        claim: reader,
      };
    case 'fence':
      return { is, floor, tokens: rest.filter((token) => token !== 0) };
    default:
      return ABSENT;
  }
}

/** The reader that a key names: the holder of its lease, or the refresher of its entry. */
function readerOf(cell: Cell): number {
  if (cell.is === 'lease') return cell.reader;
  return cell.is === 'entry' ? cell.claim : 0;
}

function withReaderOf(cell: Cell, reader: number): Cell {
  if (cell.is === 'lease') return { ...cell, reader };
  return cell.is === 'entry' && cell.claim !== 0 ? { ...cell, claim: reader } : cell;
}

/** Whether it may still write what it has read or is about to read. */
const mayWrite = ({ at }: Reader): boolean =>
  at === ReaderAt.Leased ||
  at === ReaderAt.Loaded ||
  at === ReaderAt.Claimed ||
  at === ReaderAt.Reloaded;

interface RankedReader {
  readonly reader: Reader;
  readonly number: number;
  readonly rank: number;
}

/** The state with its readers in one order, and without those that can do nothing any more. */
function normalized(protocol: Protocol, state: State): State {
  const holders = [readerOf(state.cell), readerOf(state.copy)];
  const ranked = state.readers
    .map((reader, index) => rankReader(protocol, reader, index + 1, holders))
    .sort((first, second) => first.rank - second.rank);
  const renamed = (cell: Cell): Cell => {
    const number = readerOf(cell);
    if (number === 0) return cell;
    const place = ranked.findIndex((candidate) => candidate.number === number);
    const holder = ranked[place];
    return withReaderOf(cell, holder && mayWrite(holder.reader) ? place + 1 : GONE);
  };
  return {
    ...state,
    cell: renamed(state.cell),
    copy: renamed(state.copy),
    readers: ranked.map(({ reader }) => reader),
  };
}

function rankReader(
  protocol: Protocol,
  reader: Reader,
  number: number,
  holders: readonly number[],
): RankedReader {
  const isHolder = mayWrite(reader) && holders.includes(number);
  const mayForget = mayWrite(reader) && !isHolder && forgetsReaders(protocol);
  const kept = mayForget ? IDLE_READER : reader;
  const held = isHolder ? holders.map((holder) => Number(holder === number)) : [0, 0];
  const digits = [...held, kept.at, kept.since, kept.generation, kept.author];
  return {
    reader: kept,
    number,
    rank: digits.reduce<number>((rank, digit) => rank * 8 + digit, 0),
  };
}

/**
 * Whether a reader without its lease or claim is as good as idle: it answers with what it has read
 * from PostgreSQL since it began, and writes nothing.
 */
const forgetsReaders = ({ scheme, join, promise, refresh }: Protocol): boolean =>
  scheme === 'fenced' && join === 'begun-after' && promise === 'G1' && refresh !== 'blind';
