/** How a key is deleted by whoever knows that its row changed, but not which version it has. */
import { fence, publish } from '../scripts.js';
import { DELETION_TOKEN, type State } from './protocol.js';
import type { Turn } from './turn.js';

/**
 * Offers one step, or the first of two where deleting is a fence and its release.
 * @param fenced what else changes with the first of two steps
 * @param deleted what else changes with the only step
 */
export function offerDeletion(
  { protocol, state, take }: Turn,
  name: string,
  fenced: Partial<State>,
  deleted: Partial<State>,
): void {
  if (protocol.deletion === 'fence') {
    take(`${name} fences`, { ...fenced, cell: fence(protocol, state.cell, DELETION_TOKEN) });
  } else {
    take(`${name} deletes the key`, {
      ...deleted,
      cell: publish(protocol, state.cell, DELETION_TOKEN, undefined),
    });
  }
}
