/** What a node with a near cache does: renew its lease, fill, answer, carry out revocations. */
import {
  CLEARED,
  has,
  type Node,
  nodeAt,
  RenewalAt,
  type State,
  withBit,
  withoutBit,
  WriterAt,
} from './state.js';
import { findList, mayRead, nameOfNode, type Steps, type Turn, withNode } from './turn.js';

/** Two revocations for each writer: the first, and the one after a lost fence. */
export const revocationOf = (writer: number, isSecond: boolean): number =>
  writer * 2 + (isSecond ? 1 : 0);

export const NODE_STEPS: Steps = {
  'sends a renewal'({ state, actor, take }) {
    const node = nodeAt(state, actor);
    if (node.renewal !== RenewalAt.None || !node.isOpen) return;
    take(`${nameOfNode(actor)} sends a renewal`, {
      ...withNode(state, actor, { renewal: RenewalAt.Sent, renewalBefore: 0 }),
    });
  },

  'its renewal runs'({ setup, state, actor, take }) {
    if (nodeAt(state, actor).renewal !== RenewalAt.Sent) return;
    const found = findList(setup, state);
    take(`the renewal of ${nameOfNode(actor)} runs`, {
      ...found,
      ...withNode(found, actor, {
        renewal: RenewalAt.Run,
        foundList: state.list,
        wasListed: has(state.listed, actor),
        numbered: state.numbered,
        unrenewed: 0,
      }),
      listed: withBit(state.listed, actor),
    });
  },

  'its renewal is answered'({ setup: { parts }, state, actor, take }) {
    const node = nodeAt(state, actor);
    if (node.renewal !== RenewalAt.Run) return;
    const hasMissed = (node.numbered & ~node.processed) !== 0;
    const clearsMissed = node.hasLease
      ? parts.clearsMissedWhileLeased
      : parts.clearsMissedAfterLease;
    const isNewList = parts.listsHaveNames ? node.foundList !== node.list : !node.wasListed;
    const isCleared = (isNewList && parts.clearsInNewList) || (hasMissed && clearsMissed);
    take(`${nameOfNode(actor)} renews its lease${isCleared ? ' and clears' : ''}`, {
      ...withNode(state, actor, {
        ...NO_RENEWAL,
        hasLease: true,
        list: node.foundList,
        leaseBefore: parts.leaseFromSending ? node.renewalBefore : 0,
        processed: node.processed | node.numbered,
        ...(isCleared && CLEARED),
      }),
    });
  },

  /** Its reply is lost, or comes when the lease that it gives has ended. */
  'its renewal fails'({ state, actor, take }) {
    if (nodeAt(state, actor).renewal === RenewalAt.None) return;
    take(`the renewal of ${nameOfNode(actor)} fails`, withNode(state, actor, NO_RENEWAL));
  },

  'its lease ends'({ state, actor, take }) {
    if (!nodeAt(state, actor).hasLease) return;
    take(`the lease of ${nameOfNode(actor)} ends`, {
      ...withNode(state, actor, { hasLease: false, leaseBefore: 0 }),
    });
  },

  'gets the row from Redis'({ state, actor, take }) {
    const node = nodeAt(state, actor);
    const { cell } = state;
    if (!node.hasLease || !node.isOpen || node.fetched !== 0 || cell.is !== 'entry') return;
    take(`${nameOfNode(actor)} gets version ${cell.version} from Redis`, {
      ...withNode(state, actor, { fetched: cell.version + 1 }),
    });
  },

  'fills its near cache'({ state, actor, take }) {
    const node = nodeAt(state, actor);
    if (node.fetched === 0) return;
    const isFilled = node.hasLease;
    take(`${nameOfNode(actor)} ${isFilled ? 'fills its near cache' : 'gives its fill up'}`, {
      ...withNode(state, actor, { fetched: 0, entry: isFilled ? node.fetched : node.entry }),
    });
  },

  answers(turn) {
    const { setup, state, actor, take } = turn;
    const node = nodeAt(state, actor);
    if (node.entry === 0 || !mayRead(setup, node)) return;
    const owed = setup.hasAgreement ? state.seen : state.acknowledged;
    if (!setup.parts.checksWithLookup) {
      if (node.found !== 0) return;
      take(`a reader on ${nameOfNode(actor)} finds version ${node.entry - 1}, and pauses`, {
        ...withNode(state, actor, { found: node.entry, owed }),
      });
    } else if (node.hasLease) {
      answer(turn, node.entry - 1, owed, {});
    }
  },

  'checks its lease and answers'(turn) {
    const { state, actor } = turn;
    const { found, owed, hasLease } = nodeAt(state, actor);
    if (found === 0 || !hasLease) return;
    answer(turn, found - 1, owed, withNode(state, actor, { found: 0, owed: 0 }));
  },

  /** Whether or not the writer hears of it. What never arrives is lost. */
  'carries a revocation out'({ setup, state, actor, take }) {
    const node = nodeAt(state, actor);
    state.writers.forEach((writer, index) => {
      for (const isSecond of [false, true]) {
        const revocation = revocationOf(index, isSecond);
        if (!has(state.sent, revocation) || has(node.processed, revocation)) continue;
        const after = withNode(state, actor, {
          ...revoked(setup.parts.revocationEndsFill, node),
          processed: withBit(node.processed, revocation),
        });
        const words = `${nameOfNode(actor)} carries revocation ${revocation} out`;
        take(`${words}; the writer does not hear of it`, after);
        const waitsAt = isSecond ? WriterAt.RevokedAgain : WriterAt.Revoked;
        if (writer.at !== waitsAt || !has(writer.awaited, actor)) continue;
        const awaited = withoutBit(writer.awaited, actor);
        take(words, { ...after, writers: state.writers.with(index, { ...writer, awaited }) });
      }
    });
  },

  'its gate closes'({ setup, state, actor, take }) {
    if (!setup.hasGates || !nodeAt(state, actor).isOpen) return;
    take(`the gate of ${nameOfNode(actor)} closes`, withNode(state, actor, { isOpen: false }));
  },

  'its gate opens'({ state, actor, take }) {
    if (nodeAt(state, actor).isOpen || state.isEnqueued) return;
    take(`the gate of ${nameOfNode(actor)} opens`, withNode(state, actor, { isOpen: true }));
  },
};

const NO_RENEWAL: Partial<Node> = {
  renewal: RenewalAt.None,
  renewalBefore: 0,
  foundList: 0,
  wasListed: false,
  numbered: 0,
};

const revoked = (endsFill: boolean, node: Node): Partial<Node> => ({
  entry: 0,
  fetched: endsFill ? 0 : node.fetched,
});

function answer({ actor, take }: Turn, version: number, owed: number, next: Partial<State>): void {
  take(`a reader on ${nameOfNode(actor)} answers version ${version}`, next, { version, owed });
}
