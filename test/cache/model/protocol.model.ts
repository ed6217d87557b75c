/**
 * The fenced cache as a system of states: every step that a writer, a reader, a repeated request, the database's own path or
 * the environment could take next. What is promised (G1, G3) is checked at each answer and in each state. Each part follows
 * the code that it stands for: a writer is UnitOfWork and Invalidation, a reader ReadThrough, a repetition Idempotency, the
 * database's path DatabaseInvalidations.
 */
import {
  ABSENT,
  claim,
  type Entry,
  expire,
  fence,
  fill,
  lease,
  publish,
  replace,
  unfence,
} from './scripts.model.js';
import {
  type Budgets,
  DROP_TOKEN,
  IDLE,
  type Kind,
  Pc,
  type Protocol,
  type Reader,
  type Replay,
  type State,
  type Writer,
  type WriterPc,
} from './protocol.state.js';

/** One step of somebody's: what happened, in words, and what is now. */
export interface Step {
  readonly words: string;
  readonly state: State;
  /** The promise that this step breaks. */
  readonly violation: string | undefined;
}

const HAS_COMMITTED = new Set<WriterPc>([
  Pc.TookEffect,
  Pc.Committed,
  Pc.Published,
  Pc.Acknowledged,
  Pc.AcknowledgedEarly,
  Pc.Died,
  Pc.DiedPublished,
]);
const CANNOT_COMMIT = new Set<WriterPc>([...HAS_COMMITTED, Pc.RolledBack, Pc.Over]);

/** Every step that somebody could take in `state`. */
export function successors(protocol: Protocol, state: State): Step[] {
  const steps: Step[] = [];
  const step = (
    words: string,
    next: Partial<State>,
    answer?: { author: number; since: number },
  ): void => {
    const after = { ...state, ...next };
    steps.push({ words, state: after, violation: brokenBy(after, answer) });
  };
  for (let writer = 1; writer <= state.writers.length; writer++)
    writerSteps(protocol, state, writer, step);
  for (let reader = 1; reader <= state.readers.length; reader++)
    readerSteps(protocol, state, reader, step);
  if (protocol.replay !== 'none') replaySteps(protocol, state, step);
  if (protocol.databasePath) databaseSteps(protocol, state, step);
  environmentSteps(protocol, state, step);
  return steps;
}

type Take = (
  words: string,
  next: Partial<State>,
  answer?: { author: number; since: number },
) => void;

function writerSteps(protocol: Protocol, state: State, number: number, take: Take): void {
  const { row, lock, cell, left } = state;
  const { pc, version, unfenced } = state.writers[number - 1] as Writer;
  const name = `writer ${number}`;
  const to = (next: WriterPc, took = version, without = unfenced): Pick<State, 'writers'> => ({
    writers: state.writers.with(number - 1, {
      pc: next,
      version: took,
      unfenced: without && next < Pc.Published,
    }),
  });
  const fenced = { cell: fence(protocol, cell, number) };
  const released = { cell: unfence(protocol, cell, number) };
  const unlocked = { lock: lock === number ? 0 : lock };

  const sql = (next: WriterPc): void => {
    if (lock !== 0) return;
    const kind = protocol.writers[number - 1] as Kind;
    const took = versionOf(state, row) + 1;
    if ((kind === 'insert') === isMissing(protocol, row))
      take(`${name}: ${kind} in the row's lock takes version ${took}`, {
        ...to(next, took),
        lock: number,
      });
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
    protocol.scheme !== 'fenced'
      ? 'DELs the key'
      : protocol.afterCommit === 'unfence'
        ? 'unfences'
        : 'publishes';
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
        const done = {
          ...to(Pc.Acknowledged, took),
          row: number,
          acknowledged: Math.max(state.acknowledged, took),
        };
        take(`psql: UPDATE to version ${took}, committed`, { ...done, ...leave() });
        break;
      }
      sql(protocol.fenceWhen === 'never' || protocol.scheme !== 'fenced' ? Pc.Ready : Pc.Locked);
      if (protocol.fenceWhen === 'beside')
        take(`${name} fences, its SQL not done`, { ...to(Pc.Fenced), ...fenced });
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
      if (left.unansweredCommits > 0)
        take(`${name}: COMMIT of version ${version}, whose answer never comes`, {
          ...to(Pc.Unanswered),
          left: { ...left, unansweredCommits: left.unansweredCommits - 1 },
        });
      take(`${name}: ROLLBACK`, { ...to(Pc.RolledBack, 0), lock: 0 });
      crash(Pc.Over);
      break;
    case Pc.Unanswered:
      take(`${name}'s COMMIT takes effect, version ${version}`, {
        ...to(Pc.TookEffect),
        row: number,
        lock: 0,
      });
      take(`${name}'s COMMIT comes to nothing`, { ...to(Pc.RolledBack, 0), lock: 0 });
      break;
    case Pc.TookEffect:
      // From here on it is owed: that this comes is G2.
      if (protocol.unanswered === 'watch')
        take(`${name} learns that its transaction is over, and drops the key`, {
          ...to(Pc.Acknowledged),
          ...acknowledged,
          cell: publish(protocol, cell, number, undefined),
        });
      else
        take(`${name} never learns of version ${version}`, {
          ...to(Pc.Acknowledged),
          ...acknowledged,
        });
      break;
    case Pc.Committed:
      if (protocol.publishWhen === 'acknowledged')
        take(`${name} acknowledges version ${version}`, {
          ...to(Pc.AcknowledgedEarly),
          ...acknowledged,
        });
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
  const to = (next: Reader): Pick<State, 'readers'> => ({
    readers: state.readers.with(number - 1, next),
  });
  const hit = (verb: string, { author }: Entry, since: number): void =>
    take(`${name} ${verb} and answers ${showRow(state, author)}`, to(IDLE), { author, since });
  const fromPrimary = (why: string, since: number): void =>
    take(`${name} ${why}, reads PostgreSQL and answers ${showRow(state, row)}`, to(IDLE), {
      author: row,
      since,
    });

  switch (reader.at) {
    case 'idle':
      // To begin and to GET are one step: whoever begins later and GETs at the same moment is owed at least as much.
      if (cell.is === 'entry' && !cell.none && cell.claim === 0 && protocol.refresh !== 'none')
        take(`${name} claims the entry, to refresh it`, {
          ...to({ at: 'claimed' }),
          cell: protocol.refresh === 'claim' ? claim(cell, number) : cell,
        });
      if (cell.is === 'entry') hit('begins, GETs', cell, acknowledged);
      else if (protocol.scheme === 'fenced')
        take(`${name} begins, GETs: ${cell.is}`, to({ at: 'missed', since: acknowledged }));
      else
        take(`${name} begins, GETs: absent`, to({ at: 'leased', since: acknowledged, generation }));
      break;
    case 'missed':
      if (cell.is === 'entry') hit('asks for a lease, sees an entry', cell, reader.since);
      else if (cell.is === 'fence') fromPrimary('asks for a lease, meets a fence', reader.since);
      else if (cell.is === 'lease')
        take(
          `${name} asks for a lease, meets another's`,
          to({ at: 'waiting', since: reader.since }),
        );
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
      take(
        `${name} reads PostgreSQL: ${showRow(state, row)}`,
        to({ ...reader, at: 'loaded', author: row }),
      );
      take(`${name} dies, its lease stays`, to(IDLE));
      break;
    case 'claimed':
      take(`${name} reads PostgreSQL: ${showRow(state, row)}`, to({ at: 'reloaded', author: row }));
      take(`${name} dies, its claim stays`, to(IDLE));
      break;
    case 'reloaded': {
      const { author } = reader;
      const entry = entryOf(
        protocol,
        author,
        protocol.key === 'list' ? 0 : versionOf(state, author),
      );
      const replaced = entry.none
        ? cell
        : protocol.refresh === 'blind'
          ? entry
          : replace(cell, number, entry);
      const outcome = replaced === entry ? 'refreshes' : 'may not refresh';
      take(`${name} ${outcome} the entry by ${showRow(state, author)}`, {
        ...to(IDLE),
        cell: replaced,
      });
      if (replaced === entry) take(`${name}'s refresh is lost`, to(IDLE));
      break;
    }
    case 'loaded': {
      const { author, since } = reader;
      const version =
        isMissing(protocol, author) || protocol.key === 'list' ? 0 : versionOf(state, author);
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
        take(`${name}'s fill is lost, it answers ${showRow(state, author)}`, to(IDLE), {
          author,
          since,
        });
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
  if (protocol.drop === 'fence')
    take(`${name} fences`, { ...next.fenced, cell: fence(protocol, cell, DROP_TOKEN) });
  else
    take(`${name} drops the key`, {
      ...next.dropped,
      cell: publish(protocol, cell, DROP_TOKEN, undefined),
    });
}

function replaySteps(protocol: Protocol, state: State, take: Take): void {
  const { replay, cell } = state;
  const to = (at: Replay['at'], writer: number): Pick<State, 'replay'> => ({
    replay: { at, writer },
  });
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
      else
        dropSteps(
          protocol,
          state,
          words,
          { fenced: to('fenced', writer), dropped: to('dropped', writer) },
          take,
        );
    }
  } else if (replay.at === 'fenced') {
    take('the repetition unfences', {
      ...to('dropped', replay.writer),
      cell: unfence(protocol, cell, DROP_TOKEN),
    });
  } else if (replay.at === 'dropped') {
    acknowledge('the repetition', replay.writer);
  }
}

function databaseSteps(protocol: Protocol, state: State, take: Take): void {
  const { cell, waiting } = state;
  const to = (rows: boolean, fenced: boolean): Pick<State, 'waiting'> => ({
    waiting: { rows, fenced },
  });
  const name = 'a node that finds the row in the table';
  if (waiting.fenced)
    take(`${name} unfences`, {
      ...to(waiting.rows, false),
      cell: unfence(protocol, cell, DROP_TOKEN),
    });
  else if (waiting.rows)
    dropSteps(protocol, state, name, { fenced: to(false, true), dropped: to(false, false) }, take);
}

function environmentSteps(protocol: Protocol, state: State, take: Take): void {
  const { cell, copy, left, writers } = state;
  const spend = (what: keyof Budgets): Pick<State, 'left'> => ({
    left: { ...left, [what]: left[what] - 1 },
  });
  const lost = { cell: ABSENT, generation: 0 };

  if (cell.is === 'lease') take('the lease expires', { cell: ABSENT });
  if (cell.is === 'entry') take('the entry expires', { cell: ABSENT });
  if (cell.is === 'fence') {
    const first = cell.tokens[0] as number;
    const pc = first === DROP_TOKEN ? Pc.Over : (writers[first - 1] as Writer).pc;
    const mayEnd = protocol.tokenSet
      ? CANNOT_COMMIT.has(pc) || (pc === Pc.Unanswered && protocol.unanswered === 'deadline')
      : writers.every((writer) => writer.pc === Pc.Idle || CANNOT_COMMIT.has(writer.pc));
    const stalled =
      pc === Pc.Committed ||
      pc === Pc.RolledBack ||
      (pc === Pc.TookEffect && protocol.unanswered === 'watch');
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
    if (protocol.incarnation === 'none')
      take(`${words} with the copy it has`, { cell: copy, ...spend('failovers') });
    else take(`${words}, under its own incarnation`, { ...lost, ...spend('failovers') });
  } else if (left.failbacks > 0) {
    const words = 'the first server, never restarted, takes over again';
    if (protocol.incarnation === 'replication-id')
      take(`${words}, under a new incarnation`, { ...lost, ...spend('failbacks') });
    else take(`${words} with what it had`, { cell: copy, ...spend('failbacks') });
  }
}

/** G1 at an answer, G3 at an answer and in the key. */
function brokenBy(
  state: State,
  answer: { author: number; since: number } | undefined,
): string | undefined {
  const { cell } = state;
  if (answer) {
    const { author, since } = answer;
    if (!hasCommitted(state, author)) return `G3: answered what was never committed`;
    const version = versionOf(state, author);
    if (version < since && !state.waiting.rows)
      return `G1: answered version ${version}, version ${since} was acknowledged before the read began`;
  }
  if (cell.is === 'entry' && !hasCommitted(state, cell.author))
    return `G3: cached what was never committed`;
  return undefined;
}

/** Writers of one kind that have not begun are the same writer: they begin in their order. */
const isNext = (protocol: Protocol, { writers }: State, number: number): boolean =>
  writers.every(
    ({ pc }, index) =>
      index >= number - 1 ||
      pc !== Pc.Idle ||
      protocol.writers[index] !== protocol.writers[number - 1],
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
  claim: 0,
});

const showToken = (token: number): string =>
  token === DROP_TOKEN ? 'the fence of a drop' : `writer ${token}'s fence`;
const showRow = (state: State, author: number): string => `version ${versionOf(state, author)}`;
