/** What happens to nobody in particular: the key and the list are lost, others fill the key. */
import { ABSENT, expire, fill, lease } from '../scripts.js';
import { AS_SHIPPED } from '../one-key/variants.js';
import { Marker, MARKER_WAIT, type State, WriterAt, writerAt } from './state.js';
import { endWait, hasAnyOpenGate, mayWaitEnd, spend, type Steps } from './turn.js';
import { entryOf } from './writer-steps.js';

const FILLER = 1;

export const ENVIRONMENT_STEPS: Steps = {
  'somebody fills the key'({ state, take }) {
    const { cell, loaded, row } = state;
    if (cell.is === 'absent') {
      take('a reader takes the lease of the key', { cell: lease(cell, FILLER), loaded: 0 });
    } else if (cell.is === 'lease' && loaded === 0) {
      take(`it reads version ${row} from PostgreSQL`, { loaded: row + 1 });
    } else if (cell.is === 'lease') {
      const filled = fill(cell, FILLER, entryOf(loaded - 1));
      take(`it fills version ${loaded - 1}`, { cell: filled, loaded: 0 });
    }
  },

  'somebody reads PostgreSQL'({ setup, state, take }) {
    if (!setup.hasAgreement || state.seen === state.row) return;
    take(`a reader sees version ${state.row} in PostgreSQL`, { seen: state.row });
  },

  'the key is lost'({ state, take }) {
    const { cell } = state;
    if (cell.is === 'fence' && isOver(state, cell.tokens[0] as number)) {
      take('a fence ends', { cell: expire(AS_SHIPPED, cell) });
    }
    if (cell.is === 'absent' || state.left.keyLosses === 0) return;
    take('the key is lost', { cell: ABSENT, ...spend(state, 'keyLosses') });
  },

  'the list is lost'({ state, take }) {
    if (state.left.listLosses === 0) return;
    take('the list is lost', { ...loseList(state), ...spend(state, 'listLosses') });
  },

  'the list is whole again'({ state, take }) {
    if (state.marker !== Marker.Seen || !mayWaitEnd(state, MARKER_WAIT)) return;
    take('the list is whole again', { marker: Marker.Whole, ...endWait(state, MARKER_WAIT) });
  },

  /** The epoch moves only while every gate is closed: see the model of several nodes. */
  'the cache is replaced'({ state, take }) {
    if (state.left.moves === 0 || hasAnyOpenGate(state)) return;
    take('the epoch moves to another cache', {
      cell: ABSENT,
      ...loseList(state),
      ...spend(state, 'moves'),
    });
  },
};

const loseList = (state: State): Partial<State> => ({
  list: state.list + 1,
  marker: Marker.Lost,
  listed: 0,
  numbered: 0,
  nodes: endWait(state, MARKER_WAIT).nodes.map((node) => ({ ...node, unrenewed: 0 })),
});

const isOver = (state: State, token: number): boolean =>
  writerAt(state, token - 1).at === WriterAt.Over;
