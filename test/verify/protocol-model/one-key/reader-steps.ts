/** A read, step by step: GET, lease, PostgreSQL, fill; and the refresh of an entry in use. */
import { type Cell, claim, type Entry, fill, lease, replace } from '../scripts.js';
import {
  entryOf,
  IDLE_READER,
  isMissing,
  type Protocol,
  ReaderAt,
  readerAt,
  type State,
  versionOf,
} from './protocol.js';
import { showRow, type Steps, stillReading, type Turn, withReader } from './turn.js';

export const READER_STEPS: Steps = {
  /**
   * To begin and to GET are one step: a read that begins later and GETs at the same moment is owed
   * at least as much.
   */
  begins(turn) {
    const { protocol, state, actor, take } = turn;
    const { cell, generation } = state;
    if (readerAt(state, actor).at !== ReaderAt.Idle) return;
    const since = owed(protocol, state);
    if (cell.is === 'entry') {
      offerHit(turn, 'begins, GETs', cell.author, since);
    } else if (protocol.scheme === 'fenced') {
      take(`reader ${actor} begins, GETs: ${cell.is}`, {
        ...withReader(state, actor, { at: ReaderAt.Missed, since }),
      });
    } else {
      take(`reader ${actor} begins, GETs: absent`, {
        ...withReader(state, actor, { at: ReaderAt.Leased, since, generation }),
      });
    }
  },

  'asks for a lease'(turn) {
    const { state, actor, take } = turn;
    const { cell } = state;
    const { at, since } = readerAt(state, actor);
    if (at !== ReaderAt.Missed) return;
    if (cell.is === 'entry') {
      offerHit(turn, 'asks for a lease, sees an entry', cell.author, since);
    } else if (cell.is === 'fence') {
      offerPrimary(turn, 'asks for a lease, meets a fence');
    } else if (cell.is === 'lease') {
      take(`reader ${actor} asks for a lease, meets another's`, {
        ...stillReading(state, actor, { at: ReaderAt.Waiting }),
      });
    } else {
      take(`reader ${actor} takes a lease`, {
        ...stillReading(state, actor, { at: ReaderAt.Leased }),
        cell: lease(cell, actor),
      });
    }
  },

  waits(turn) {
    const { state, actor } = turn;
    const { cell } = state;
    const { at, since } = readerAt(state, actor);
    if (at !== ReaderAt.Waiting) return;
    if (cell.is === 'entry') offerHit(turn, 'looks again, sees an entry', cell.author, since);
    offerPrimary(turn, 'waits no longer');
  },

  'reads PostgreSQL'({ state, actor, take }) {
    const { at } = readerAt(state, actor);
    const { row } = state;
    if (at !== ReaderAt.Leased && at !== ReaderAt.Claimed) return;
    const next = at === ReaderAt.Leased ? ReaderAt.Loaded : ReaderAt.Reloaded;
    take(`reader ${actor} reads PostgreSQL: ${showRow(state, row)}`, {
      ...stillReading(state, actor, { at: next, author: row }),
    });
  },

  dies({ state, actor, take }) {
    const { at } = readerAt(state, actor);
    if (at !== ReaderAt.Leased && at !== ReaderAt.Claimed) return;
    const what = at === ReaderAt.Leased ? 'lease' : 'claim';
    const words = `reader ${actor} dies, its ${what} stays`;
    take(words, withReader(state, actor, IDLE_READER));
  },

  fills({ protocol, state, actor, take }) {
    const { at, author, since, generation } = readerAt(state, actor);
    if (at !== ReaderAt.Loaded) return;
    const { cell } = state;
    const entry = loadedEntry(protocol, state, author);
    const mayWrite = protocol.scheme === 'aside' || generation === state.generation;
    const unleased = mayWrite ? entry : cell;
    const filled = protocol.scheme === 'fenced' ? fill(cell, actor, entry) : unleased;
    const outcome = filled === entry ? 'fills' : 'may not fill';
    const idle = withReader(state, actor, IDLE_READER);
    const words = `answers ${showRow(state, author)}`;
    const next = { ...idle, cell: filled };
    take(`reader ${actor} ${outcome} and ${words}`, next, { author, since });
    if (protocol.scheme === 'fenced') {
      take(`reader ${actor}'s fill is lost, it ${words}`, idle, { author, since });
    }
  },

  'joins a running load'({ protocol, state, actor, take }) {
    const { at, author } = readerAt(state, actor);
    if (at !== ReaderAt.Loaded || protocol.join !== 'running') return;
    take(
      `a reader begins, joins reader ${actor}'s load and answers ${showRow(state, author)}`,
      {},
      { author, since: owed(protocol, state) },
    );
  },

  'claims an entry'({ protocol, state, actor, take }) {
    const { cell } = state;
    const isIdle = readerAt(state, actor).at === ReaderAt.Idle;
    if (!isIdle || protocol.refresh === 'none' || cell.is !== 'entry') return;
    if (cell.none || cell.claim !== 0) return;
    take(`reader ${actor} claims the entry, to refresh it`, {
      ...withReader(state, actor, { at: ReaderAt.Claimed }),
      cell: protocol.refresh === 'claim' ? claim(cell, actor) : cell,
    });
  },

  'refreshes an entry'({ protocol, state, actor, take }) {
    const { at, author } = readerAt(state, actor);
    if (at !== ReaderAt.Reloaded) return;
    const { cell } = state;
    const entry = loadedEntry(protocol, state, author);
    const replaced = refreshed(protocol, cell, actor, entry);
    const hasRefreshed = replaced === entry;
    const idle = withReader(state, actor, IDLE_READER);
    const outcome = hasRefreshed ? 'refreshes' : 'may not refresh';
    take(`reader ${actor} ${outcome} the entry by ${showRow(state, author)}`, {
      ...idle,
      cell: replaced,
    });
    if (hasRefreshed) take(`reader ${actor}'s refresh is lost`, idle);
  },
};

/** The version that a read which begins now may not fall behind. */
const owed = ({ promise }: Protocol, { acknowledged, seen }: State): number =>
  promise === 'agreement' ? Math.max(acknowledged, seen) : acknowledged;

function offerHit({ state, actor, take }: Turn, verb: string, author: number, since: number): void {
  const idle = withReader(state, actor, IDLE_READER);
  const words = `reader ${actor} ${verb} and answers ${showRow(state, author)}`;
  take(words, idle, { author, since });
}

function offerPrimary({ state, actor, take }: Turn, why: string): void {
  const { row } = state;
  const { since } = readerAt(state, actor);
  const words = `reader ${actor} ${why}, reads PostgreSQL and answers ${showRow(state, row)}`;
  take(words, withReader(state, actor, IDLE_READER), { author: row, since });
}

/** A list has no version; nor has what a reader found missing. */
function loadedEntry(protocol: Protocol, state: State, author: number): Entry {
  const hasVersion = protocol.key === 'row' && !isMissing(protocol, author);
  return entryOf(protocol, author, hasVersion ? versionOf(state, author) : 0);
}

function refreshed(protocol: Protocol, cell: Cell, actor: number, entry: Entry): Cell {
  if (entry.none) return cell;
  return protocol.refresh === 'blind' ? entry : replace(cell, actor, entry);
}
