/**
 * A repeated request, whose answer acknowledges what another writer committed. So does a 404, 409
 * or 412 that shows a client the result of a write whose answer it never got.
 */
import {
  isInEpoch,
  NO_PLACE,
  nodeAt,
  placeOf,
  type Repetition,
  type Setup,
  type State,
} from './state.js';
import { withDeletedKey } from './node-steps.js';
import { acknowledge, nameOfNode, showPlace, type Steps, withDatabase } from './turn.js';
import { endOldPasses, reasonToEndWait, showTimeHasPassed } from './writer-steps.js';

export const REPETITION_STEPS: Steps = {
  'sees the write'({ setup, state, actor, take }) {
    if (state.repetition.at !== 'idle') return;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    const mayName = node.epoch !== 0 && (isInEpoch(state, node) || !parts.repetitionChecksEpoch);
    const place = mayName ? placeOf(setup, node.incarnation, node.epoch) : NO_PLACE;
    state.writers.forEach(({ version }, index) => {
      if (version === 0) return;
      const writer = index + 1;
      const words = `a repetition of writer ${writer}'s request comes to ${nameOfNode(actor)}`;
      if (parts.repetitionDeletes) {
        take(words, { repetition: { at: 'checked', writer, place } });
      } else {
        const repetition: Repetition = { at: 'done', writer, place: NO_PLACE };
        take(`${words}, which acknowledges it`, acknowledged(state, repetition));
      }
    });
  },

  'deletes the key'({ setup, state, take }) {
    const { repetition } = state;
    if (repetition.at !== 'checked' || repetition.place === NO_PLACE) return;
    take(`the repetition deletes the key in ${showPlace(setup, repetition.place)}, acknowledges`, {
      ...acknowledged(state, repetition),
      ...withDeletedKey(setup, state, repetition.place),
    });
  },

  'cannot delete the key'({ setup, state, take }) {
    const { repetition, database } = state;
    if (repetition.at !== 'checked') return;
    const enqueued = withDatabase(state, { table: database.table | rowOfRepetition(setup) });
    const words = 'the repetition cannot delete the key and enqueues it';
    if (setup.parts.repetitionWaits) {
      take(words, {
        ...enqueued,
        repetition: { ...repetition, at: 'waiting', place: NO_PLACE },
      });
    } else {
      take(`${words}, acknowledges`, { ...enqueued, ...acknowledged(state, repetition) });
    }
  },

  'acknowledges after its wait'({ setup, state, take }) {
    const { repetition, primary } = state;
    if (repetition.at !== 'waiting') return;
    const row = rowOfRepetition(setup);
    const reason = reasonToEndWait(setup, state, row, primary);
    if (reason === undefined) return;
    take(`the repetition acknowledges: ${reason}`, {
      ...acknowledged(state, repetition),
      ...(reason === showTimeHasPassed ? endOldPasses(state, row) : {}),
    });
  },
};

const rowOfRepetition = ({ writers }: Setup): number => 1 << writers.length;

function acknowledged(
  state: State,
  { writer }: Repetition,
): Pick<State, 'repetition' | 'acknowledged'> {
  return {
    repetition: { at: 'done', writer, place: NO_PLACE },
    ...acknowledge(state, writer),
  };
}
