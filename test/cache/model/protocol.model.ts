/**
 * The fenced cache as a system of states: one row, one cache key, writers, readers, a repeated request, and an environment
 * that crashes, stalls, flushes, fails over and loses commands within a budget. `successors` gives every step that any of them
 * could take next; what is promised (G1, G3) is checked at each answer and in each state. Each part follows the code that it
 * stands for: Writer is UnitOfWork and Invalidation, Reader is ReadThrough, Replay is Idempotency, Waiting is
 * DatabaseInvalidations.
 *
 * Versions follow the row's lock, so a rolled back writer's version comes again; rows are told apart by their author.
 */
import {
  ABSENT,
  type Cell,
  type Entry,
  expire,
  fence,
  fill,
  lease,
  publish,
  type Rules,
  unfence,
} from './scripts.model.js';

/** How often the environment may do its worst, in one run. */
export interface Budgets {
  /** A writer's process dies; what it has sent last may still arrive. */
  readonly crashes: number;
  /** A living writer is so slow after its COMMIT or ROLLBACK that its own fence ends. */
  readonly stalls: number;
  /** The key is lost, whatever it holds, fences included: FLUSHALL, an eviction, a restart without data. */
  readonly flushes: number;
  /** A publication times out and the write is acknowledged all the same; it may still arrive. */
  readonly lostPublishes: number;
  /** A fence cannot be set and the write goes on (CACHE_DEGRADED_WRITES=allow). */
  readonly lostFences: number;
  /** Another server takes over, with what it had copied up to some moment. */
  readonly failovers: number;
  /** The first server takes over again, without having been restarted, with what its successor had copied from it. */
  readonly failbacks: number;
}

/** `psql`: an update by hand, which knows nothing of the cache. */
export type Kind = 'update' | 'delete' | 'insert' | 'psql';

/** One protocol to explore: the shipped one, or one with a piece taken away. */
export interface Protocol extends Rules {
  readonly writers: readonly Kind[];
  readonly readers: number;
  readonly budgets: Budgets;
  /** `aside`: GET, read, SET, and a DEL after COMMIT. `generation`: the SET only if the key's generation did not move. */
  readonly scheme: 'fenced' | 'aside' | 'generation';
  /** `list`: a pointer or a collection, which is dropped after COMMIT and never published. */
  readonly key: 'row' | 'list';
  /** Whether there is a row before the first writer. */
  readonly rowExists: boolean;
  /** `locked`: the fence goes out when the row is locked. `beside`: in any order with the SQL. `never`: leases only. */
  readonly fenceWhen: 'locked' | 'beside' | 'never';
  /** What follows COMMIT. */
  readonly afterCommit: 'publish' | 'unfence';
  readonly publishWhen: 'acknowledging' | 'acknowledged' | 'uncommitted';
  /** What a key begins with: nothing of the server; its run_id; that and its replication id. */
  readonly incarnation: 'none' | 'run-id' | 'replication-id';
  /** Whether a repeated request drops the keys of the write that it acknowledges; `none`: no request is repeated. */
  readonly replay: 'none' | 'acknowledge' | 'drop';
  /** How keys are dropped: a fence and its release, or a publication that leaves them absent. */
  readonly drop: 'fence' | 'publish';
  /** What was not fenced or not published is left in a table, from which the key is dropped. Until then G1 is not owed: G2. */
  readonly databasePath: boolean;
  /** `running`: ordinary single-flight, a caller may join a load that has begun. */
  readonly join: 'begun-after' | 'running';
}

/** Where a writer is. */
export const Pc = {
  Idle: 0,
  /** SQL done, the row's lock held, not fenced. */
  Locked: 1,
  /** Fenced, its SQL not done. */
  Fenced: 2,
  /** May COMMIT. */
  Ready: 3,
  /** Not published, not acknowledged. */
  Committed: 4,
  Published: 5,
  Acknowledged: 6,
  /** Acknowledged, and its publication may still arrive. */
  AcknowledgedEarly: 7,
  /** Its fence still stands. */
  RolledBack: 8,
  /** Ended or died without a commit. */
  Over: 9,
  /** Died after COMMIT; its publication may still arrive. */
  Died: 10,
  DiedPublished: 11,
} as const;
type WriterPc = (typeof Pc)[keyof typeof Pc];

interface Writer {
  readonly pc: WriterPc;
  /** The version that its SQL took; 0 before. */
  readonly version: number;
  /** It could not fence: its COMMIT itself leaves the keys to the database's path. */
  readonly unfenced: boolean;
}

/** `since`: the newest version acknowledged when the read began. `author`: whose row it has read. */
type Reader =
  | { readonly at: 'idle' }
  | { readonly at: 'missed' | 'waiting'; readonly since: number }
  | { readonly at: 'leased'; readonly since: number; readonly generation: number }
  | { readonly at: 'loaded'; readonly since: number; readonly generation: number; readonly author: number };

interface Replay {
  readonly at: 'idle' | 'fenced' | 'dropped' | 'done';
  readonly writer: number;
}

/** The table of invalidations: whether a row waits in it, and whether one has been taken and its key been fenced. */
interface Waiting {
  readonly rows: boolean;
  readonly fenced: boolean;
}

export interface State {
  /** The author of the committed row. */
  readonly row: number;
  /** Who holds the row's lock; 0: nobody. */
  readonly lock: number;
  /** The newest version whose write was acknowledged. */
  readonly acknowledged: number;
  readonly cell: Cell;
  /** What the replica has copied. */
  readonly copy: Cell;
  /** Only in the scheme `generation`: lives in the cache and is lost with it. */
  readonly generation: number;
  readonly writers: readonly Writer[];
  readonly readers: readonly Reader[];
  readonly replay: Replay;
  readonly waiting: Waiting;
  readonly left: Budgets;
}

/** One step of somebody's: what happened, in words, and what is now. */
export interface Step {
  readonly words: string;
  readonly state: State;
  /** The promise that this step breaks. */
  readonly violation: string | undefined;
}

const IDLE: Reader = { at: 'idle' };
/** The token under which a key is dropped; writers have 1 to 3. */
const DROP_TOKEN = 4;
const CANNOT_COMMIT = new Set<WriterPc>(Object.values(Pc).filter((pc) => pc >= Pc.Committed));
const HAS_COMMITTED = new Set<WriterPc>([
  Pc.Committed,
  Pc.Published,
  Pc.Acknowledged,
  Pc.AcknowledgedEarly,
  Pc.Died,
  Pc.DiedPublished,
]);

export function initial(protocol: Protocol): State {
  return {
    row: 0,
    lock: 0,
    acknowledged: 0,
    cell: ABSENT,
    copy: ABSENT,
    generation: 0,
    writers: protocol.writers.map(() => ({ pc: Pc.Idle, version: 0, unfenced: false })),
    readers: Array.from({ length: protocol.readers }, () => IDLE),
    replay: { at: 'idle', writer: 0 },
    waiting: { rows: false, fenced: false },
    left: protocol.budgets,
  };
}

/** Every step that somebody could take in `state`. */
export function successors(protocol: Protocol, state: State): Step[] {
  const steps: Step[] = [];
  const step = (words: string, next: Partial<State>, answer?: { author: number; since: number }): void => {
    const after = { ...state, ...next };
    steps.push({ words, state: after, violation: brokenBy(after, answer) });
  };
  for (let writer = 1; writer <= state.writers.length; writer++) writerSteps(protocol, state, writer, step);
  for (let reader = 1; reader <= state.readers.length; reader++) readerSteps(protocol, state, reader, step);
  if (protocol.replay !== 'none') replaySteps(protocol, state, step);
  if (protocol.databasePath) databaseSteps(protocol, state, step);
  environmentSteps(protocol, state, step);
  return steps;
}

type Take = (words: string, next: Partial<State>, answer?: { author: number; since: number }) => void;

function writerSteps(protocol: Protocol, state: State, number: number, take: Take): void {
  const { row, lock, cell, left } = state;
  const { pc, version, unfenced } = state.writers[number - 1] as Writer;
  const name = `writer ${number}`;
  const to = (next: WriterPc, took = version, without = unfenced): Pick<State, 'writers'> => ({
    writers: state.writers.with(number - 1, { pc: next, version: took, unfenced: without && next < Pc.Published }),
  });
  const fenced = { cell: fence(protocol, cell, number) };
  const released = { cell: unfence(protocol, cell, number) };
  const unlocked = { lock: lock === number ? 0 : lock };

  const sql = (next: WriterPc): void => {
    if (lock !== 0) return;
    const kind = protocol.writers[number - 1] as Kind;
    const took = versionOf(state, row) + 1;
    if ((kind === 'insert') === isMissing(protocol, row))
      take(`${name}: ${kind} in the row's lock takes version ${took}`, { ...to(next, took), lock: number });
    else
      take(
        `${name}: ${kind} finds ${kind === 'insert' ? 'a' : 'no'} row, ROLLBACK`,
        to(pc === Pc.Fenced ? Pc.RolledBack : Pc.Over),
      );
  };
  const published = (): Pick<State, 'cell' | 'generation'> => {
    if (protocol.scheme === 'generation') return { cell: ABSENT, generation: state.generation + 1 };
    if (protocol.scheme === 'aside') return { cell: ABSENT, generation: 0 };
    if (protocol.afterCommit === 'unfence') return { ...released, generation: 0 };
    const entry = protocol.key === 'row' ? entryOf(protocol, number, version) : undefined;
    return { cell: publish(protocol, cell, number, entry), generation: 0 };
  };
  const verb =
    protocol.scheme !== 'fenced' ? 'DELs the key' : protocol.afterCommit === 'unfence' ? 'unfences' : 'publishes';
  const acknowledged = { acknowledged: Math.max(state.acknowledged, version) };
  /** The keys go to the table, committed: with the write itself, or before it is acknowledged. */
  const leave = (): Pick<State, 'waiting'> => ({
    waiting: protocol.databasePath ? { ...state.waiting, rows: true } : state.waiting,
  });
  const crash = (next: WriterPc): void => {
    if (left.crashes > 0)
      take(`${name} dies`, {
        ...to(next, HAS_COMMITTED.has(next) ? version : 0),
        ...unlocked,
        left: { ...left, crashes: left.crashes - 1 },
      });
  };

  switch (pc) {
    case Pc.Idle:
      if (!isNext(protocol, state, number)) break;
      if (protocol.writers[number - 1] === 'psql') {
        if (lock !== 0) break;
        const took = versionOf(state, row) + 1;
        const done = { ...to(Pc.Acknowledged, took), row: number, acknowledged: Math.max(state.acknowledged, took) };
        take(`psql: UPDATE to version ${took}, committed`, { ...done, ...leave() });
        break;
      }
      sql(protocol.fenceWhen === 'never' || protocol.scheme !== 'fenced' ? Pc.Ready : Pc.Locked);
      if (protocol.fenceWhen === 'beside') take(`${name} fences, its SQL not done`, { ...to(Pc.Fenced), ...fenced });
      break;
    case Pc.Locked:
      take(`${name} fences`, { ...to(Pc.Ready), ...fenced });
      take(`${name}: ROLLBACK before its fence`, { ...to(Pc.Over, 0), lock: 0 });
      if (left.lostFences > 0)
        take(`${name} cannot fence and goes on`, {
          ...to(Pc.Ready, version, true),
          left: { ...left, lostFences: left.lostFences - 1 },
        });
      crash(Pc.Over);
      break;
    case Pc.Fenced:
      sql(Pc.Ready);
      take(`${name}: ROLLBACK`, to(Pc.RolledBack));
      crash(Pc.Over);
      break;
    case Pc.Ready:
      if (protocol.publishWhen === 'uncommitted' && protocol.key === 'row')
        take(`${name} publishes, not committed`, {
          cell: publish(protocol, cell, number, entryOf(protocol, number, version)),
        });
      take(`${name}: COMMIT of version ${version}`, {
        ...to(Pc.Committed),
        row: number,
        lock: 0,
        ...(unfenced ? leave() : {}),
      });
      take(`${name}: ROLLBACK`, { ...to(Pc.RolledBack, 0), lock: 0 });
      crash(Pc.Over);
      break;
    case Pc.Committed:
      if (protocol.publishWhen === 'acknowledged')
        take(`${name} acknowledges version ${version}`, { ...to(Pc.AcknowledgedEarly), ...acknowledged });
      else {
        take(`${name} ${verb}`, { ...to(Pc.Published), ...published() });
        if (left.lostPublishes > 0)
          take(`${name}: the publication times out, version ${version} is acknowledged`, {
            ...to(Pc.AcknowledgedEarly),
            ...acknowledged,
            ...(unfenced ? {} : leave()),
            left: { ...left, lostPublishes: left.lostPublishes - 1 },
          });
      }
      crash(Pc.Died);
      break;
    case Pc.Published:
      take(`${name} acknowledges version ${version}`, { ...to(Pc.Acknowledged), ...acknowledged });
      crash(Pc.DiedPublished);
      break;
    case Pc.AcknowledgedEarly:
      take(`${name} ${verb}, late`, { ...to(Pc.Acknowledged), ...published() });
      break;
    case Pc.Died:
      take(`${name} ${verb}: sent before it died`, { ...to(Pc.DiedPublished), ...published() });
      break;
    case Pc.RolledBack:
      take(`${name} unfences`, { ...to(Pc.Over), ...released });
      crash(Pc.Over);
      break;
  }
}

function readerSteps(protocol: Protocol, state: State, number: number, take: Take): void {
  const { cell, row, acknowledged, generation } = state;
  const reader = state.readers[number - 1] as Reader;
  const name = `reader ${number}`;
  const to = (next: Reader): Pick<State, 'readers'> => ({ readers: state.readers.with(number - 1, next) });
  const hit = (verb: string, { author }: Entry, since: number): void =>
    take(`${name} ${verb} and answers ${showRow(state, author)}`, to(IDLE), { author, since });
  const fromPrimary = (why: string, since: number): void =>
    take(`${name} ${why}, reads PostgreSQL and answers ${showRow(state, row)}`, to(IDLE), { author: row, since });

  switch (reader.at) {
    case 'idle':
      // To begin and to GET are one step: whoever begins later and GETs at the same moment is owed at least as much.
      if (cell.is === 'entry') hit('begins, GETs', cell, acknowledged);
      else if (protocol.scheme === 'fenced')
        take(`${name} begins, GETs: ${cell.is}`, to({ at: 'missed', since: acknowledged }));
      else take(`${name} begins, GETs: absent`, to({ at: 'leased', since: acknowledged, generation }));
      break;
    case 'missed':
      if (cell.is === 'entry') hit('asks for a lease, sees an entry', cell, reader.since);
      else if (cell.is === 'fence') fromPrimary('asks for a lease, meets a fence', reader.since);
      else if (cell.is === 'lease')
        take(`${name} asks for a lease, meets another's`, to({ at: 'waiting', since: reader.since }));
      else
        take(`${name} takes a lease`, {
          ...to({ at: 'leased', since: reader.since, generation: 0 }),
          cell: lease(cell, number),
        });
      break;
    case 'waiting':
      if (cell.is === 'entry') hit('looks again, sees an entry', cell, reader.since);
      fromPrimary('waits no longer', reader.since);
      break;
    case 'leased':
      take(`${name} reads PostgreSQL: ${showRow(state, row)}`, to({ ...reader, at: 'loaded', author: row }));
      take(`${name} dies, its lease stays`, to(IDLE));
      break;
    case 'loaded': {
      const { author, since } = reader;
      const version = isMissing(protocol, author) || protocol.key === 'list' ? 0 : versionOf(state, author);
      const entry = entryOf(protocol, author, version);
      const filled =
        protocol.scheme === 'fenced'
          ? fill(cell, number, entry)
          : protocol.scheme === 'aside' || reader.generation === generation
            ? entry
            : cell;
      const outcome = filled === entry ? 'fills' : 'may not fill';
      take(
        `${name} ${outcome} and answers ${showRow(state, author)}`,
        { ...to(IDLE), cell: filled },
        { author, since },
      );
      if (protocol.scheme === 'fenced')
        take(`${name}'s fill is lost, it answers ${showRow(state, author)}`, to(IDLE), { author, since });
      if (protocol.join === 'running')
        take(
          `a reader begins, joins ${name}'s load and answers ${showRow(state, author)}`,
          {},
          { author, since: acknowledged },
        );
      break;
    }
  }
}

/** A key is dropped in one step or two; `dropped` is what follows the last, `fenced` what follows the first of two. */
function dropSteps(
  protocol: Protocol,
  { cell }: State,
  name: string,
  next: { readonly fenced: Partial<State>; readonly dropped: Partial<State> },
  take: Take,
): void {
  if (protocol.drop === 'fence') take(`${name} fences`, { ...next.fenced, cell: fence(protocol, cell, DROP_TOKEN) });
  else take(`${name} drops the key`, { ...next.dropped, cell: publish(protocol, cell, DROP_TOKEN, undefined) });
}

function replaySteps(protocol: Protocol, state: State, take: Take): void {
  const { replay, cell } = state;
  const to = (at: Replay['at'], writer: number): Pick<State, 'replay'> => ({ replay: { at, writer } });
  const acknowledge = (words: string, writer: number): void =>
    take(`${words} acknowledges version ${versionOf(state, writer)}`, {
      ...to('done', writer),
      acknowledged: Math.max(state.acknowledged, versionOf(state, writer)),
    });
  if (replay.at === 'idle') {
    for (let writer = 1; writer <= state.writers.length; writer++) {
      if (!hasCommitted(state, writer) || protocol.writers[writer - 1] === 'psql') continue;
      const words = `the repetition of writer ${writer}'s request`;
      if (protocol.replay === 'acknowledge') acknowledge(words, writer);
      else dropSteps(protocol, state, words, { fenced: to('fenced', writer), dropped: to('dropped', writer) }, take);
    }
  } else if (replay.at === 'fenced') {
    take('the repetition unfences', { ...to('dropped', replay.writer), cell: unfence(protocol, cell, DROP_TOKEN) });
  } else if (replay.at === 'dropped') {
    acknowledge('the repetition', replay.writer);
  }
}

function databaseSteps(protocol: Protocol, state: State, take: Take): void {
  const { cell, waiting } = state;
  const to = (rows: boolean, fenced: boolean): Pick<State, 'waiting'> => ({ waiting: { rows, fenced } });
  const name = 'a node that finds the row in the table';
  if (waiting.fenced)
    take(`${name} unfences`, { ...to(waiting.rows, false), cell: unfence(protocol, cell, DROP_TOKEN) });
  else if (waiting.rows) dropSteps(protocol, state, name, { fenced: to(false, true), dropped: to(false, false) }, take);
}

function environmentSteps(protocol: Protocol, state: State, take: Take): void {
  const { cell, copy, left, writers } = state;
  const spend = (what: keyof Budgets): Pick<State, 'left'> => ({ left: { ...left, [what]: left[what] - 1 } });
  const lost = { cell: ABSENT, generation: 0 };

  if (cell.is === 'lease') take('the lease expires', { cell: ABSENT });
  if (cell.is === 'entry') take('the entry expires', { cell: ABSENT });
  if (cell.is === 'fence') {
    const first = cell.tokens[0] as number;
    const pc = first === DROP_TOKEN ? Pc.Over : (writers[first - 1] as Writer).pc;
    const mayEnd = protocol.tokenSet
      ? CANNOT_COMMIT.has(pc)
      : writers.every((writer) => writer.pc === Pc.Idle || CANNOT_COMMIT.has(writer.pc));
    const stalled = pc === Pc.Committed || pc === Pc.RolledBack;
    if (mayEnd && (!stalled || left.stalls > 0))
      take(`the deadline of ${showToken(first)} passes`, {
        cell: expire(protocol, cell),
        ...(stalled ? spend('stalls') : {}),
      });
  }
  if (left.flushes > 0 && (cell.is !== 'absent' || state.generation > 0))
    take('the key is flushed', { ...lost, ...spend('flushes') });
  if (left.failovers > 0) {
    if (copy !== cell) take('the replica catches up', { copy: cell });
    const words = 'another server takes over';
    if (protocol.incarnation === 'none') take(`${words} with the copy it has`, { cell: copy, ...spend('failovers') });
    else take(`${words}, under its own incarnation`, { ...lost, ...spend('failovers') });
  } else if (left.failbacks > 0) {
    const words = 'the first server, never restarted, takes over again';
    if (protocol.incarnation === 'replication-id')
      take(`${words}, under a new incarnation`, { ...lost, ...spend('failbacks') });
    else take(`${words} with what it had`, { cell: copy, ...spend('failbacks') });
  }
}

/** G1 at an answer, G3 at an answer and in the key. */
function brokenBy(state: State, answer: { author: number; since: number } | undefined): string | undefined {
  const { cell } = state;
  if (answer) {
    const { author, since } = answer;
    if (!hasCommitted(state, author)) return `G3: answered what was never committed`;
    const version = versionOf(state, author);
    if (version < since && !state.waiting.rows)
      return `G1: answered version ${version}, version ${since} was acknowledged before the read began`;
  }
  if (cell.is === 'entry' && !hasCommitted(state, cell.author)) return `G3: cached what was never committed`;
  return undefined;
}

/** Writers of one kind that have not begun are the same writer: they begin in their order. */
const isNext = (protocol: Protocol, { writers }: State, number: number): boolean =>
  writers.every(
    ({ pc }, index) =>
      index >= number - 1 || pc !== Pc.Idle || protocol.writers[index] !== protocol.writers[number - 1],
  );
const versionOf = (state: State, author: number): number =>
  author === 0 ? 0 : (state.writers[author - 1] as Writer).version;
const hasCommitted = (state: State, author: number): boolean =>
  author === 0 || HAS_COMMITTED.has((state.writers[author - 1] as Writer).pc);
const isMissing = (protocol: Protocol, author: number): boolean =>
  author === 0 ? !protocol.rowExists : protocol.writers[author - 1] === 'delete';
const entryOf = (protocol: Protocol, author: number, version: number): Entry => ({
  is: 'entry',
  author,
  version,
  none: isMissing(protocol, author),
});

const showToken = (token: number): string => (token === DROP_TOKEN ? 'the fence of a drop' : `writer ${token}'s fence`);
const showRow = (state: State, author: number): string => `version ${versionOf(state, author)}`;

/** The key in a few letters, for traces: `-`, `L1`, `V2`, `F1{1,2}`; `N0`: no such row, of version 0. */
export function showCell(cell: Cell): string {
  switch (cell.is) {
    case 'absent':
      return '-';
    case 'lease':
      return `L${cell.reader}`;
    case 'entry':
      return `${cell.none ? 'N' : 'V'}${cell.version}`;
    case 'fence':
      return `F${cell.floor}{${cell.tokens.map((token) => (token === DROP_TOKEN ? 'd' : token)).join(',')}}`;
  }
}

const READER_AT = ['idle', 'missed', 'waiting', 'leased', 'loaded'] as const;
const REPLAY_AT = ['idle', 'fenced', 'dropped', 'done'] as const;

/**
 * The state as a short text: what the visited set holds. Two states have the same text when they differ only in which reader
 * is which, or in the name on a lease whose reader has died: neither can change what may happen next.
 */
export function encode(state: State): string {
  const { row, lock, acknowledged, cell, copy, generation, writers, readers, replay, waiting, left } = state;
  const codes = [
    ((row * 4 + lock) * 4 + acknowledged) * 4 + generation,
    encodeCell(cell),
    encodeCell(copy),
    ((REPLAY_AT.indexOf(replay.at) * 4 + replay.writer) * 2 + (waiting.rows ? 1 : 0)) * 2 + (waiting.fenced ? 1 : 0),
    [
      left.crashes,
      left.stalls,
      left.flushes,
      left.lostPublishes,
      left.lostFences,
      left.failovers,
      left.failbacks,
    ].reduce((code, budget) => code * 4 + budget, 0),
  ];
  for (const { pc, version, unfenced } of writers) codes.push(pc * 8 + version * 2 + (unfenced ? 1 : 0));
  const seen = readers.map((reader, index) => encodeReader(reader, holds(cell, index + 1), holds(copy, index + 1)));
  return String.fromCharCode(...codes, ...seen.sort((one, other) => one - other));
}

const holds = (cell: Cell, reader: number): boolean => cell.is === 'lease' && cell.reader === reader;

function encodeReader(reader: Reader, leaseHeld: boolean, leaseCopied: boolean): number {
  const since = 'since' in reader ? reader.since : 0;
  const generation = 'generation' in reader ? reader.generation : 0;
  const author = 'author' in reader ? reader.author : 0;
  const mayFill = reader.at === 'leased' || reader.at === 'loaded';
  const flags = mayFill ? (leaseHeld ? 2 : 0) + (leaseCopied ? 1 : 0) : 0;
  return (((READER_AT.indexOf(reader.at) * 4 + since) * 4 + generation) * 4 + author) * 4 + flags;
}

function encodeCell(cell: Cell): number {
  switch (cell.is) {
    case 'absent':
      return 0;
    case 'lease':
      return 1;
    case 'entry':
      return 8 + (cell.author * 4 + cell.version) * 2 + (cell.none ? 1 : 0);
    case 'fence':
      return 64 + cell.tokens.reduce((code, token) => code * 5 + token, 0) * 8 + cell.floor;
  }
}
