/**
 * A state as small whole numbers, for the store of known states. What can make no difference any
 * more is left out, so states that differ only in that are one. Such reductions hold for the
 * complete protocol; where a part is missing, only those that do not depend on it are made.
 */
import { ABSENT, BEYOND, type Cell } from '../scripts.js';
import type { Parts } from './parts.js';
import {
  type Budgets,
  cellAt,
  countPlaces,
  type Database,
  IDLE_READER,
  isInEpoch,
  maxEpochs,
  NO_PLACE,
  NO_ROWS_TAKEN,
  type Node,
  placeOf,
  type Reader,
  ReaderAt,
  readerAt,
  type Repetition,
  type Setup,
  NO_REPETITION,
  type State,
  type Writer,
  WriterAt,
} from './state.js';

const BUDGETS: readonly (keyof Budgets)[] = [
  'changes',
  'moves',
  'flushes',
  'failedPublications',
  'failedFences',
  'failedEnqueues',
  'unansweredCommits',
  'lostSessions',
  'promotions',
];
const REPETITION_AT: readonly Repetition['at'][] = ['idle', 'checked', 'waiting', 'done'];

const CELL_BITS = 5;
const bitsFor = (values: number): number => Math.ceil(Math.log2(values));

/** The width of each of the fields, in bits. */
export function fieldWidths(setup: Setup): number[] {
  const { nodes, incarnations, writers, readers, budgets, parts, repetitionAt } = setup;
  const place = bitsFor(countPlaces(setup) + 1);
  const epoch = bitsFor(maxEpochs(setup) + 1);
  const incarnation = bitsFor(incarnations);
  const version = bitsFor(writers.length + 1);
  const rows = writers.length + 1;
  const server = hasPromotions(setup) ? 1 : 0;
  const inAblation = isComplete(parts) ? 0 : 1;
  const database = [version, epoch, incarnation, server, rows, ...nodes.map(() => epoch)];
  const node = [
    ...[incarnation, server, epoch, 1, rows + 1],
    ...[rows * inAblation, rows, place, 1, inAblation],
  ];
  return [
    ...database,
    version,
    ...(hasPromotions(setup) ? [1, 1, ...database, version, epoch] : []),
    ...nodes.flatMap(() => node),
    ...Array.from({ length: countPlaces(setup) }, () => CELL_BITS),
    ...writers.flatMap(() => [4, place, version, server]),
    ...readers.flatMap(() => [3, place, version, server, version]),
    ...(repetitionAt === undefined ? [] : [2, version, place]),
    ...BUDGETS.map((budget) => bitsFor(budgets[budget] + 1)),
  ];
}

const hasPromotions = ({ budgets }: Setup): boolean => budgets.promotions > 0;

/** Writes fields in their order. */
class FieldWriter {
  private next = 0;

  constructor(private readonly fields: Uint8Array) {}

  put(value: number): void {
    this.fields[this.next] = value;
    this.next++;
  }

  putFlag(flag: boolean): void {
    this.put(flag ? 1 : 0);
  }
}

export function toFields(setup: Setup, state: State, target: Uint8Array): void {
  const { database, replica, left, repetition } = state;
  const fields = new FieldWriter(target);
  putDatabase(fields, database);
  fields.put(state.acknowledged);
  if (hasPromotions(setup)) {
    fields.put(state.primary);
    fields.putFlag(replica !== undefined);
    putDatabase(fields, replica ?? noDatabase(setup));
    fields.put(state.survivingVersion);
    fields.put(state.epochs);
  }
  for (const node of state.nodes) putNode(fields, setup, state, node);
  const places = readablePlaces(setup, state);
  for (let place = 1; place <= state.cells.length; place++) {
    const isReadable = (places & (1 << place)) !== 0;
    fields.put(isReadable ? numberOfCell(state, place) : 0);
  }
  for (const writer of state.writers) putWriter(fields, setup, state, writer);
  for (let number = 1; number <= state.readers.length; number++) {
    putReader(fields, hasLostLease(state, number) ? IDLE_READER : readerAt(state, number));
  }
  if (setup.repetitionAt !== undefined) {
    fields.put(REPETITION_AT.indexOf(repetition.at));
    fields.put(repetition.writer);
    fields.put(repetition.place);
  }
  for (const budget of BUDGETS) fields.put(left[budget]);
}

export function fromFields(setup: Setup, fields: Uint8Array): State {
  let next = 0;
  const take = (): number => fields[next++] as number;
  const takeDatabase = (): Database => ({
    author: take(),
    epoch: take(),
    incarnation: take(),
    server: take(),
    table: take(),
    registry: setup.nodes.map(take),
  });
  const database = takeDatabase();
  const acknowledged = take();
  let [primary, survivingVersion, epochs] = [0, 0, database.epoch];
  let replica: Database | undefined;
  if (hasPromotions(setup)) {
    primary = take();
    const hasReplica = take() === 1;
    const copied = takeDatabase();
    replica = hasReplica ? copied : undefined;
    survivingVersion = take();
    epochs = take();
  }
  const nodes = setup.nodes.map((): Node => {
    const [incarnation, session, epoch, isOpen, seenRows] = [
      take(),
      take(),
      take(),
      take(),
      take(),
    ];
    return {
      incarnation,
      session,
      epoch,
      isOpen: isOpen === 1,
      seenRows: seenRows === 0 ? undefined : seenRows - 1,
      ignoredRows: take(),
      takenRows: take(),
      takenPlace: take(),
      areKeysDeleted: take() === 1,
      isMoving: take() === 1,
    };
  });
  const cellNumbers = Array.from({ length: countPlaces(setup) }, take);
  const writers = setup.writers.map((): Writer => ({
    at: take() as WriterAt,
    place: take(),
    version: take(),
    server: take(),
  }));
  const readers = setup.readers.map((): Reader => ({
    at: take() as ReaderAt,
    place: take(),
    since: take(),
    session: take(),
    author: take(),
  }));
  const repetition =
    setup.repetitionAt === undefined
      ? NO_REPETITION
      : { at: REPETITION_AT[take()] as Repetition['at'], writer: take(), place: take() };
  const left = Object.fromEntries(BUDGETS.map((budget) => [budget, take()])) as unknown as Budgets;
  return {
    database,
    primary,
    replica,
    survivingVersion,
    epochs,
    nodes,
    cells: cellNumbers.map((number) => cellOfNumber(number, writers)),
    writers,
    readers,
    repetition,
    acknowledged,
    left,
  };
}

const noDatabase = ({ nodes }: Setup): Database => ({
  author: 0,
  epoch: 0,
  incarnation: 0,
  server: 0,
  table: 0,
  registry: nodes.map(() => 0),
});

function putDatabase(fields: FieldWriter, database: Database): void {
  fields.put(database.author);
  fields.put(database.epoch);
  fields.put(database.incarnation);
  fields.put(database.server);
  fields.put(database.table);
  for (const epoch of database.registry) fields.put(epoch);
}

function putNode(fields: FieldWriter, setup: Setup, state: State, node: Node): void {
  const knowsNothing = isComplete(setup.parts) && hasUselessName(state, node);
  const isApplying = (node.takenRows & state.database.table) !== 0;
  const taken = isApplying || !setup.parts.keysBeforeRows ? node : NO_ROWS_TAKEN;
  fields.put(node.incarnation);
  fields.put(node.session);
  fields.put(knowsNothing ? 0 : node.epoch);
  fields.putFlag(node.isOpen);
  fields.put(node.seenRows === undefined ? 0 : node.seenRows + 1);
  fields.put(node.ignoredRows);
  fields.put(taken.takenRows);
  fields.put(taken.takenPlace);
  fields.putFlag(taken.areKeysDeleted);
  fields.putFlag(node.isMoving);
}

function putWriter(fields: FieldWriter, setup: Setup, state: State, writer: Writer): void {
  const { database, primary } = state;
  const isOfEpoch =
    database.server === primary &&
    writer.place === placeOf(setup, database.incarnation, database.epoch);
  // PostgreSQL will find that another name was fenced: as good as no fence.
  const isUnfenced = writer.at === WriterAt.Fenced && !isOfEpoch && isComplete(setup.parts);
  fields.put(isUnfenced ? WriterAt.Unfenced : writer.at);
  fields.put(isUnfenced ? NO_PLACE : writer.place);
  fields.put(writer.version);
  fields.put(writer.server);
}

function putReader(fields: FieldWriter, reader: Reader): void {
  fields.put(reader.at);
  fields.put(reader.place);
  fields.put(reader.since);
  fields.put(reader.session);
  fields.put(reader.author);
}

/** A closed node's name that is not the epoch's: every COMMIT, pass and application finds out. */
function hasUselessName(state: State, node: Node): boolean {
  return !node.isOpen && node.seenRows === undefined && !isInEpoch(state, node);
}

const completeness = new WeakMap<Parts, boolean>();

/** Whether no part is taken away. */
export function isComplete(parts: Parts): boolean {
  let known = completeness.get(parts);
  if (known === undefined) {
    known = !Object.values(parts).includes(false);
    completeness.set(parts, known);
  }
  return known;
}

/** The places from which a read may still be answered, one bit for each. */
function readablePlaces(setup: Setup, state: State): number {
  const { database, nodes, readers } = state;
  let places = 0;
  for (const { place } of readers) places |= 1 << place;
  for (const node of nodes) {
    if (node.epoch === 0) continue;
    const mayRead = node.isOpen || node.seenRows !== undefined || isInEpoch(state, node);
    if (mayRead || !isComplete(setup.parts)) {
      places |= 1 << placeOf(setup, node.incarnation, node.epoch);
    }
  }
  for (let incarnation = 0; incarnation < setup.incarnations; incarnation++) {
    if (incarnation === database.incarnation || !isComplete(setup.parts)) {
      places |= 1 << placeOf(setup, incarnation, database.epoch);
    }
  }
  return places;
}

const isLoading = ({ at }: Reader): boolean => at === ReaderAt.Leased || at === ReaderAt.Loaded;

/** A reader without its lease answers from PostgreSQL and fills nothing. */
function hasLostLease(state: State, number: number): boolean {
  const reader = readerAt(state, number);
  if (!isLoading(reader)) return false;
  const cell = cellAt(state, reader.place);
  return cell.is !== 'lease' || cell.reader !== number;
}

const FIRST_ENTRY = 1;
const FIRST_LEASE = 4;
const FIRST_FENCE = 8;
const FLOORS = [0, 1, 2, BEYOND];
/** The tokens of a fence, in the order of their deadlines. */
const TOKENS: readonly (readonly number[])[] = [[1], [2], [1, 2], [2, 1]];

function numberOfCell(state: State, place: number): number {
  const cell = cellAt(state, place);
  switch (cell.is) {
    case 'absent':
      return 0;
    case 'entry':
      return FIRST_ENTRY + cell.author;
    case 'lease': {
      // A lease whose reader has gone can only end, which it may do at any moment.
      const holder = readerAt(state, cell.reader);
      const isHeld = holder.place === place && isLoading(holder);
      return isHeld ? FIRST_LEASE + cell.reader - 1 : 0;
    }
    case 'fence': {
      const tokens = TOKENS.findIndex((known) => known.join() === cell.tokens.join());
      return FIRST_FENCE + tokens * FLOORS.length + FLOORS.indexOf(cell.floor);
    }
  }
}

function cellOfNumber(number: number, writers: readonly Writer[]): Cell {
  if (number === 0) return ABSENT;
  if (number < FIRST_LEASE) {
    const author = number - FIRST_ENTRY;
    const version = author === 0 ? 0 : (writers[author - 1] as Writer).version;
    return { is: 'entry', author, version, none: false, claim: 0 };
  }
  if (number < FIRST_FENCE) return { is: 'lease', reader: number - FIRST_LEASE + 1 };
  const fence = number - FIRST_FENCE;
  return {
    is: 'fence',
    floor: FLOORS[fence % FLOORS.length] as number,
    tokens: TOKENS[Math.floor(fence / FLOORS.length)] as readonly number[],
  };
}
