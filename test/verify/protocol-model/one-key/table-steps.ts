/** A node that applies rows of the table of invalidations. */
import { unfence } from '../scripts.js';
import { offerDeletion } from './deletion.js';
import { DELETION_TOKEN } from './protocol.js';
import type { Steps } from './turn.js';

export const TABLE_STEPS: Steps = {
  'applies rows'(turn) {
    if (!turn.state.hasRows || turn.state.isRowFenced) return;
    const name = 'a node that finds the row in the table';
    offerDeletion(turn, name, { hasRows: false, isRowFenced: true }, { hasRows: false });
  },

  unfences({ protocol, state, take }) {
    if (!state.isRowFenced) return;
    take('that node unfences', {
      isRowFenced: false,
      cell: unfence(protocol, state.cell, DELETION_TOKEN),
    });
  },
};
