/**
 * A write: fence, revoke, wait, COMMIT, publish, acknowledge. A degraded one commits first; then
 * its key is deleted and revoked, as whoever applies rows of the database does.
 */
import { BEYOND, type Cell, type Entry, fence, publish } from '../scripts.js';
import { AS_SHIPPED } from '../one-key/variants.js';
import { revocationOf } from './node-steps.js';
import {
  has,
  Marker,
  type State,
  withBit,
  withoutBit,
  type Writer,
  WriterAt,
  writerAt,
} from './state.js';
import {
  acknowledge,
  beginWait,
  endWait,
  findList,
  hasAnyOpenGate,
  mayWaitEnd,
  nameOfNode,
  spend,
  type Steps,
  type Turn,
  withWriter,
} from './turn.js';

export const WRITER_STEPS: Steps = {
  begins(turn) {
    const { setup, state, actor, take } = turn;
    if (writerAt(state, actor).at !== WriterAt.Idle) return;
    const kind = setup.writers[actor];
    const first = writerAt(state, 0);
    if (kind === 'degraded') commit(turn, { isEnqueued: true });
    if (kind === 'fences') beginFencing(turn);
    if (first.at !== WriterAt.Over) return;
    if (kind === 'follows') beginFencing(turn);
    if (kind === 'repeats' && first.version > 0) {
      take(`writer ${actor} finds version ${first.version} committed`, {
        ...withWriter(state, actor, { at: WriterAt.Committed, version: first.version }),
      });
    }
  },

  revokes(turn) {
    const { setup, state, actor } = turn;
    const { at } = writerAt(state, actor);
    const { waitsBeforeCommit, revokesBehindFence } = setup.parts;
    if (at === WriterAt.Fenced && waitsBeforeCommit && revokesBehindFence) {
      revoke(turn, WriterAt.Revoked);
    }
    const skipsRevocation = !isFencing(turn) && !setup.parts.applierRevokes;
    if (at === WriterAt.Deleted && !skipsRevocation) revoke(turn, WriterAt.RevokedAgain);
  },

  'has waited'(turn) {
    const { setup, state, actor, take } = turn;
    const writer = writerAt(state, actor);
    if (writer.at !== WriterAt.Revoked && writer.at !== WriterAt.RevokedAgain) return;
    const awaitsAll = writer.awaitsAll && setup.parts.waitsWhileIncomplete;
    const isConfirmed = writer.awaited === 0 && !awaitsAll;
    const isTimedOut = mayWaitEnd(state, actor);
    if (!isConfirmed && !isTimedOut && setup.parts.waitsForMembers) return;
    const at = writer.at === WriterAt.Revoked ? WriterAt.Confirmed : WriterAt.Published;
    // Those that are still awaited may be removed from the list.
    take(`writer ${actor} has waited`, {
      ...endWait(state, actor),
      ...withWriter(state, actor, { at, awaitsAll: false, awaited: writer.awaited }),
    });
  },

  /** It may do so at any later time, or never. */
  'removes a silent node'({ setup: { parts }, state, actor, take }) {
    const { at, awaited } = writerAt(state, actor);
    const isWaiting = at === WriterAt.Revoked || at === WriterAt.RevokedAgain;
    if (isWaiting && parts.removesAfterWait) return;
    state.nodes.forEach((node, index) => {
      if (!has(awaited, index) || !has(state.listed, index)) return;
      if (parts.removalComparesRenewal && !has(node.unrenewed, actor)) return;
      take(`writer ${actor} removes ${nameOfNode(index)} from the list`, {
        listed: withoutBit(state.listed, index),
        ...(isWaiting ? {} : withWriter(state, actor, { awaited: withoutBit(awaited, index) })),
      });
    });
  },

  fences(turn) {
    const { setup, state, actor } = turn;
    const isLate = !setup.parts.revokesBehindFence && isFencing(turn);
    if (isLate && writerAt(state, actor).at === WriterAt.Confirmed) setFence(turn);
  },

  commits(turn) {
    const { setup, state, actor } = turn;
    const { at } = writerAt(state, actor);
    const { waitsBeforeCommit, revokesBehindFence } = setup.parts;
    const isReadyEarly = at === WriterAt.Fenced && !(waitsBeforeCommit && revokesBehindFence);
    const isReady = revokesBehindFence && waitsBeforeCommit && at === WriterAt.Confirmed;
    if (isReady || isReadyEarly) commit(turn, {});
  },

  publishes(turn) {
    const { setup, state, actor, take } = turn;
    const { at, version } = writerAt(state, actor);
    if (at !== WriterAt.Committed || !isFencing(turn)) return;
    const { parts, isPublishedAbsent } = setup;
    const token = actor + 1;
    const isIntact = state.cell.is === 'fence' && state.cell.tokens.includes(token);
    const entry = isPublishedAbsent ? undefined : entryOf(version);
    const mustRevoke = (!isIntact && parts.lostFenceRevokes) || !parts.waitsBeforeCommit;
    take(`writer ${actor} publishes version ${version}${isIntact ? '' : ', without its fence'}`, {
      cell: publish(AS_SHIPPED, state.cell, token, entry),
      ...withWriter(state, actor, { at: mustRevoke ? WriterAt.Deleted : WriterAt.Published }),
    });
  },

  /** Whoever applies the row of a degraded write, or acknowledges another's write. */
  'deletes the key'(turn) {
    const { setup, state, actor, take } = turn;
    const { at } = writerAt(state, actor);
    if (at !== WriterAt.Committed || isFencing(turn)) return;
    const next = setup.parts.applierRevokes ? WriterAt.Deleted : WriterAt.Published;
    take(`the key is deleted for writer ${actor}`, {
      cell: publish(AS_SHIPPED, state.cell, DELETION_TOKEN, undefined),
      ...withWriter(state, actor, { at: next }),
    });
  },

  acknowledges({ setup, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    // No node answers from the cache now, and none will before the row is applied.
    const isNobodyReading =
      setup.writers[actor] === 'degraded' && at === WriterAt.Committed && !hasAnyOpenGate(state);
    if (at !== WriterAt.Published && !isNobodyReading) return;
    take(`writer ${actor} acknowledges version ${version}`, {
      ...acknowledge(state, version),
      ...(at === WriterAt.Published ? withWriter(state, actor, { at: WriterAt.Over }) : {}),
      ...(at === WriterAt.Published && setup.writers[actor] === 'degraded'
        ? { isEnqueued: false }
        : {}),
    });
  },

  dies({ state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (state.left.crashes === 0 || at === WriterAt.Idle || at === WriterAt.Over) return;
    take(`writer ${actor} dies`, {
      ...endWait(state, actor),
      ...withWriter(state, actor, { at: WriterAt.Over, awaited: 0, awaitsAll: false }),
      ...spend(state, 'crashes'),
    });
  },
};

const isFencing = ({ setup, actor }: Turn): boolean =>
  setup.writers[actor] === 'fences' || setup.writers[actor] === 'follows';

/** The publication of whoever deletes a key, or the fence of nobody. */
const DELETION_TOKEN = BEYOND;

function beginFencing(turn: Turn): void {
  if (turn.setup.parts.revokesBehindFence) setFence(turn);
  else revoke(turn, WriterAt.Revoked);
}

function setFence({ state, actor, take }: Turn): void {
  const at = WriterAt.Fenced;
  const cell: Cell = fence(AS_SHIPPED, state.cell, actor + 1);
  take(`writer ${actor} fences`, { cell, ...withWriter(state, actor, { at }) });
}

function revoke({ setup, state, actor, take }: Turn, at: WriterAt): void {
  const revocation = revocationOf(actor, at === WriterAt.RevokedAgain);
  const found = { ...state, ...findList(setup, state) };
  take(`writer ${actor} sends revocation ${revocation}`, {
    ...beginWait(found, actor),
    marker: found.marker,
    numbered: withBit(state.numbered, revocation),
    sent: withBit(state.sent, revocation),
    ...withWriter(state, actor, {
      at,
      awaited: state.listed,
      awaitsAll: found.marker !== Marker.Whole,
    }),
  });
}

function commit({ state, actor, take }: Turn, next: Partial<State>): void {
  const version = state.row + 1;
  take(`writer ${actor} commits version ${version}`, {
    row: version,
    ...withWriter(state, actor, { at: WriterAt.Committed, version } satisfies Partial<Writer>),
    ...next,
  });
}

/** The entry of a version; authors tell nothing here. */
export const entryOf = (version: number): Entry => ({
  is: 'entry',
  author: 0,
  version,
  none: false,
  claim: 0,
});
