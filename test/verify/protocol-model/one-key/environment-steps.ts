/** What happens to nobody in particular: keys expire, are flushed and fail over. */
import { ABSENT, expire } from '../scripts.js';
import {
  cannotCommit,
  DELETION_TOKEN,
  type Protocol,
  type State,
  WriterAt,
  writerAt,
} from './protocol.js';
import { spend, type Steps } from './turn.js';

export const ENVIRONMENT_STEPS: Steps = {
  'an entry or a lease expires'({ state, take }) {
    const { cell } = state;
    if (cell.is === 'entry' || cell.is === 'lease') {
      take(`the ${cell.is} expires`, { cell: ABSENT });
    }
  },

  "a fence's deadline passes"({ protocol, state, take }) {
    const { cell } = state;
    if (cell.is !== 'fence') return;
    const [first] = cell.tokens as [number];
    const needsStall = isStalled(protocol, state, first);
    if (!mayEnd(protocol, state, first) || (needsStall && state.left.stalls === 0)) return;
    const holder = first === DELETION_TOKEN ? 'the fence of a deletion' : `writer ${first}'s fence`;
    take(`the deadline of ${holder} passes`, {
      cell: expire(protocol, cell),
      ...(needsStall ? spend(state, 'stalls') : {}),
    });
  },

  'the key is flushed'({ state, take }) {
    const isNothing = state.cell.is === 'absent' && state.generation === 0;
    if (state.left.flushes === 0 || isNothing) return;
    take('the key is flushed', { cell: ABSENT, generation: 0, ...spend(state, 'flushes') });
  },

  'the replica catches up'({ state, take }) {
    const { cell, copy, left } = state;
    if (left.failovers > 0 && copy !== cell) take('the replica catches up', { copy: cell });
  },

  'another server takes over'({ protocol, state, take }) {
    if (state.left.failovers === 0) return;
    const spent = spend(state, 'failovers');
    if (protocol.incarnation === 'none') {
      take('another server takes over with its copy', { cell: state.copy, ...spent });
    } else {
      take('another server takes over, under its own incarnation', {
        cell: ABSENT,
        generation: 0,
        ...spent,
      });
    }
  },

  'the first server takes over again'({ protocol, state, take }) {
    const { left, copy } = state;
    if (left.failovers > 0 || left.failbacks === 0) return;
    const words = 'the first server, never restarted, takes over again';
    const spent = spend(state, 'failbacks');
    if (protocol.incarnation === 'replication-id') {
      take(`${words}, under a new incarnation`, { cell: ABSENT, generation: 0, ...spent });
    } else {
      take(`${words} with what it had`, { cell: copy, ...spent });
    }
  },
};

/** A fence outlives every transaction, so it ends only after its writer's. */
function mayEnd(protocol: Protocol, { writers }: State, token: number): boolean {
  if (!protocol.tokenSet) {
    return writers.every(({ at }) => at === WriterAt.Idle || cannotCommit(at));
  }
  const at = token === DELETION_TOKEN ? WriterAt.Over : writers[token - 1]?.at;
  if (at === WriterAt.Unanswered) return protocol.unanswered === 'deadline';
  return at !== undefined && cannotCommit(at);
}

/** Its writer is alive and would have released it. */
function isStalled(protocol: Protocol, state: State, token: number): boolean {
  if (token === DELETION_TOKEN) return false;
  const { at } = writerAt(state, token);
  if (at === WriterAt.TookEffect) return protocol.unanswered === 'watch';
  return at === WriterAt.Committed || at === WriterAt.RolledBack;
}
