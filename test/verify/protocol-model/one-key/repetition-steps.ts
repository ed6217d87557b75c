/** A repeated request: its answer acknowledges what another process committed. */
import { unfence } from '../scripts.js';
import { offerDeletion } from './deletion.js';
import { DELETION_TOKEN, hasCommitted, type Repetition, type State } from './protocol.js';
import { acknowledge, showRow, type Steps } from './turn.js';

export const REPETITION_STEPS: Steps = {
  begins(turn) {
    const { protocol, state, take } = turn;
    if (state.repetition.at !== 'idle') return;
    for (let writer = 1; writer <= state.writers.length; writer++) {
      const isByHand = protocol.writers[writer - 1] === 'psql';
      if (isByHand || !hasCommitted(state, writer)) continue;
      const words = `the repetition of writer ${writer}'s request`;
      if (protocol.repetition === 'acknowledges') {
        take(`${words} acknowledges ${showRow(state, writer)}`, {
          ...repeat('done', writer),
          ...acknowledge(state, writer),
        });
      } else {
        offerDeletion(turn, words, repeat('fenced', writer), repeat('deleted', writer));
      }
    }
  },

  unfences({ protocol, state, take }) {
    const { at, writer } = state.repetition;
    if (at !== 'fenced') return;
    take('the repetition unfences', {
      ...repeat('deleted', writer),
      cell: unfence(protocol, state.cell, DELETION_TOKEN),
    });
  },

  acknowledges({ state, take }) {
    const { at, writer } = state.repetition;
    if (at !== 'deleted') return;
    take(`the repetition acknowledges ${showRow(state, writer)}`, {
      ...repeat('done', writer),
      ...acknowledge(state, writer),
    });
  },
};

const repeat = (at: Repetition['at'], writer: number): Pick<State, 'repetition'> => ({
  repetition: { at, writer },
});
