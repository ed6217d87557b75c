/**
 * A read through the cache: look at the gate, GET or take a lease under the node's name, read
 * PostgreSQL, fill. What is read from PostgreSQL is the newest committed row, so such an answer can
 * break nothing and is left out.
 */
import { type Cell, fill, lease } from '../scripts.js';
import {
  cellAt,
  IDLE_READER,
  type Node,
  nodeAt,
  placeOf,
  ReaderAt,
  readerAt,
  type Setup,
  type State,
  versionOf,
} from './state.js';
import { nameOfNode, showPlace, type Steps, type Turn, withCell, withReader } from './turn.js';

export const READER_STEPS: Steps = {
  /** Begins, sees an open gate and reads, all at one moment. */
  reads(turn) {
    const { setup, state, actor, take } = turn;
    const node = nodeOf(setup, state, actor);
    if (readerAt(state, actor).at !== ReaderAt.Idle || node.epoch === 0) return;
    const place = placeOf(setup, node.incarnation, node.epoch);
    const read = { place, since: state.acknowledged, session: node.session };
    if (setup.parts.gateBeforeCommand) {
      if (node.isOpen) offerRead(turn, read);
    } else {
      take(`${nameOf(turn)} sends its command to ${showPlace(setup, place)}`, {
        ...withReader(state, actor, { at: ReaderAt.Asked, ...read }),
      });
    }
  },

  /** The command is run some time after it was sent. */
  'reads later'(turn) {
    const reader = readerAt(turn.state, turn.actor);
    if (reader.at === ReaderAt.Asked) offerRead(turn, reader);
  },

  'reads PostgreSQL'({ state, actor, take }) {
    const reader = readerAt(state, actor);
    if (reader.at !== ReaderAt.Leased) return;
    const { author } = state.database;
    take(`reader ${actor} reads version ${versionOf(state, author)} from PostgreSQL`, {
      ...withReader(state, actor, { ...reader, at: ReaderAt.Loaded, author }),
    });
  },

  fills({ setup, state, actor, take }) {
    const { at, place, author } = readerAt(state, actor);
    if (at !== ReaderAt.Loaded) return;
    const cell = cellAt(state, place);
    const version = versionOf(state, author);
    const entry = { is: 'entry', author, version, none: false, claim: 0 } as const;
    const filled: Cell = fill(cell, actor, entry);
    if (filled === cell) return;
    take(`reader ${actor} fills version ${version} in ${showPlace(setup, place)}`, {
      ...withReader(state, actor, IDLE_READER),
      ...withCell(state, place, filled),
    });
  },

  /** Only where a reader looks at the gate when the answer has come. */
  'looks at the gate and answers'({ setup, state, actor, take }) {
    const { at, author, since, session } = readerAt(state, actor);
    if (at !== ReaderAt.Answering || !nodeOf(setup, state, actor).isOpen) return;
    take(
      `reader ${actor} sees an open gate and answers version ${versionOf(state, author)}`,
      withReader(state, actor, IDLE_READER),
      { author, since, session },
    );
  },

  'turns to PostgreSQL'({ state, actor, take }) {
    const { at } = readerAt(state, actor);
    if (at === ReaderAt.Idle || at === ReaderAt.Leased) return;
    take(`reader ${actor} turns to PostgreSQL`, withReader(state, actor, IDLE_READER));
  },
};

function offerRead(
  turn: Turn,
  read: { readonly place: number; readonly since: number; readonly session: number },
): void {
  const { setup, state, actor, take } = turn;
  const { place, since, session } = read;
  const { gateBeforeCommand } = setup.parts;
  const cell = cellAt(state, place);
  const where = showPlace(setup, place);
  if (cell.is === 'entry') {
    const words = `${nameOf(turn)} reads version ${cell.version} in ${where}`;
    if (gateBeforeCommand) {
      const { author } = cell;
      take(`${words} and answers`, withReader(state, actor, IDLE_READER), {
        author,
        since,
        session,
      });
    } else {
      take(words, {
        ...withReader(state, actor, {
          place,
          since,
          session,
          at: ReaderAt.Answering,
          author: cell.author,
        }),
      });
    }
    return;
  }
  const mayFill = gateBeforeCommand || nodeOf(setup, state, actor).isOpen;
  if (cell.is === 'absent' && mayFill) {
    take(`${nameOf(turn)} takes a lease in ${where}`, {
      ...withReader(state, actor, { at: ReaderAt.Leased, place }),
      ...withCell(state, place, lease(cell, actor)),
    });
  }
}

const nodeOf = (setup: Setup, state: State, number: number): Node =>
  nodeAt(state, setup.readers[number - 1] as number);

const nameOf = ({ setup, actor }: Turn): string =>
  `reader ${actor} on ${nameOfNode(setup.readers[actor - 1] as number)}`;
