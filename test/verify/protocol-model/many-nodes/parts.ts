/**
 * The parts of the protocol between several nodes. Each can be taken away by itself: `scenarios.ts`
 * names the promise that breaks without it. docs/design/cache-protocol.md explains them in order.
 */
import type { ScriptRules } from '../scripts.js';

export interface Parts extends ScriptRules {
  // Names and the epoch.
  /** A key's name carries the epoch, so another epoch of the same incarnation begins empty. */
  readonly namesCarryEpoch: boolean;
  /** An epoch's id was never used before, not even by a PostgreSQL that has lost it. */
  readonly epochIsFresh: boolean;
  /** The epoch names the PostgreSQL server (system identifier and timeline) that it was set on. */
  readonly epochNamesDatabase: boolean;
  /** The epoch moves only while no node is registered as a reader. */
  readonly moveNeedsEmptyRegistry: boolean;
  /** No node can register between that check and the move. */
  readonly moveExcludesRegistration: boolean;
  /** On a promoted PostgreSQL server the epoch moves only after every older gate has closed. */
  readonly moveWaitsAfterPromotion: boolean;

  // A node's gate.
  /** A node registers only if the epoch names the incarnation that the node is connected to. */
  readonly registersForOwnIncarnation: boolean;
  /** The gate closes in the turn in which the node's connection leads to another incarnation. */
  readonly closesWithIncarnation: boolean;
  /** A pass that began before such a change opens nothing. */
  readonly changeEndsPass: boolean;
  /** A node registers, visibly for all, before it looks at the table. */
  readonly registersBeforeLooking: boolean;
  /** A pass first checks that the node is still registered. */
  readonly passChecksRegistration: boolean;
  /** A node opens only when the rows that it saw are gone. */
  readonly opensWhenRowsAreGone: boolean;
  /** A gate closes by itself, a bounded time after the beginning of the last pass. */
  readonly gateIsLease: boolean;
  /** A pass prolongs that time only if the rows that it saw are gone. */
  readonly renewalLooksAtTable: boolean;
  /** A node closes its gate before it ends its registration. */
  readonly closesBeforeUnregistering: boolean;
  /** A silent node stays registered until its gate has closed by itself. */
  readonly registrationOutlivesGate: boolean;

  // Readers.
  /** A reader looks at the gate before its command is sent; else only when the answer has come. */
  readonly gateBeforeCommand: boolean;

  // Writers.
  /** At COMMIT, PostgreSQL compares the name under which the transaction fenced with the epoch. */
  readonly commitChecksName: boolean;
  /** The epoch cannot move between that check and the COMMIT. */
  readonly commitExcludesMove: boolean;
  /** PostgreSQL knows which keys a change touches; else it believes the transaction. */
  readonly databaseKnowsKeys: boolean;
  /** The writer hears whether PostgreSQL took its transaction for fenced. */
  readonly writerHearsDatabase: boolean;
  /** A write that was not fenced waits. */
  readonly unfencedWaits: boolean;
  /** A wait ends when no node at all is registered; else when none is for another epoch. */
  readonly waitCountsAllReaders: boolean;
  /** The writer looks at the registry after its COMMIT; else before it. */
  readonly looksAfterCommit: boolean;
  /** A publication goes to the name that was fenced; else to the node's name of the moment. */
  readonly publishesUnderFencedName: boolean;
  /** A write whose publication failed waits. */
  readonly failedPublicationWaits: boolean;
  /** A write whose publication failed enqueues its keys before it waits. */
  readonly failedPublicationEnqueues: boolean;
  /** A write that can neither publish nor enqueue is not acknowledged. */
  readonly failedEnqueueIsNoAcknowledgement: boolean;
  /** A wait trusts the table and the registry only on the server that took the COMMIT. */
  readonly waitChecksDatabase: boolean;

  // Nodes that apply rows.
  /** Only a node of the epoch applies rows. */
  readonly appliesInEpochOnly: boolean;
  /** It compares its name with the epoch when it takes the rows, not earlier. */
  readonly epochReadWithRows: boolean;
  /** It deletes the keys before the rows. */
  readonly keysBeforeRows: boolean;

  // Repeated requests, and refusals that show a client what another request has written.
  /** They delete the keys of the write that they acknowledge. */
  readonly repetitionDeletes: boolean;
  /** They compare their name with the epoch in a snapshot that shows the write. */
  readonly repetitionChecksEpoch: boolean;
  /** They wait, like a write, when they cannot delete the keys. */
  readonly repetitionWaits: boolean;
}

/** Every part is there. */
export const COMPLETE: Parts = {
  floor: true,
  tokenSet: true,
  versionCompare: true,
  noneYields: true,
  expiryRaisesFloor: true,
  absenceRaisesFloor: true,
  namesCarryEpoch: true,
  epochIsFresh: true,
  epochNamesDatabase: true,
  moveNeedsEmptyRegistry: true,
  moveExcludesRegistration: true,
  moveWaitsAfterPromotion: true,
  registersForOwnIncarnation: true,
  closesWithIncarnation: true,
  changeEndsPass: true,
  registersBeforeLooking: true,
  passChecksRegistration: true,
  opensWhenRowsAreGone: true,
  gateIsLease: true,
  renewalLooksAtTable: true,
  closesBeforeUnregistering: true,
  registrationOutlivesGate: true,
  gateBeforeCommand: true,
  commitChecksName: true,
  commitExcludesMove: true,
  databaseKnowsKeys: true,
  writerHearsDatabase: true,
  unfencedWaits: true,
  waitCountsAllReaders: true,
  looksAfterCommit: true,
  publishesUnderFencedName: true,
  failedPublicationWaits: true,
  failedPublicationEnqueues: true,
  failedEnqueueIsNoAcknowledgement: true,
  waitChecksDatabase: true,
  appliesInEpochOnly: true,
  epochReadWithRows: true,
  keysBeforeRows: true,
  repetitionDeletes: true,
  repetitionChecksEpoch: true,
  repetitionWaits: true,
};
