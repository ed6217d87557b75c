/**
 * The parts of the protocol of near caches. Each can be taken away by itself: `scenarios.ts` names
 * the promise that breaks without it. docs/design/cache-protocol.md explains them.
 */
export interface Parts {
  // Writers.
  /** A writer waits until each listed node has confirmed its revocation, or its lease has ended. */
  readonly waitsForMembers: boolean;
  /** It waits before COMMIT; else after the publication. */
  readonly waitsBeforeCommit: boolean;
  /** It revokes when its fence is set (or its key deleted); else before that. */
  readonly revokesBehindFence: boolean;
  /** A publication that finds its fence lost revokes again, and waits. */
  readonly lostFenceRevokes: boolean;
  /** A list that is not known to be whole: the writer waits for the leases of all nodes. */
  readonly waitsWhileIncomplete: boolean;
  /** A list counts as whole a lease's time after it was found new; else at once. */
  readonly wholeAfterLease: boolean;
  /** A silent node is removed from the list when its leases have ended; else at once. */
  readonly removesAfterWait: boolean;
  /** It is removed only if it has not renewed since the revocation. */
  readonly removalComparesRenewal: boolean;
  /** Who applies rows of the database revokes their keys, too. */
  readonly applierRevokes: boolean;

  // Nodes.
  /** A lease begins before the renewal is sent; else with the reply. */
  readonly leaseFromSending: boolean;
  /** A node with a lease clears its entries when it renews, if it missed a revocation. */
  readonly clearsMissedWhileLeased: boolean;
  /** A node whose lease had ended does so, too. */
  readonly clearsMissedAfterLease: boolean;
  /** A node that finds another list than at its last renewal clears its entries. */
  readonly clearsInNewList: boolean;
  /** Lists have names; else a node takes the list for another one if it is not listed. */
  readonly listsHaveNames: boolean;
  /** A revocation also ends the fill that is under way. */
  readonly revocationEndsFill: boolean;
  /** Look-up and check of the lease are one step. */
  readonly checksWithLookup: boolean;
  /** A node answers only while its read gate is open. */
  readonly gateBeforeNear: boolean;
}

/** Every part is there. */
export const COMPLETE: Parts = {
  waitsForMembers: true,
  waitsBeforeCommit: true,
  revokesBehindFence: true,
  lostFenceRevokes: true,
  waitsWhileIncomplete: true,
  wholeAfterLease: true,
  removesAfterWait: true,
  removalComparesRenewal: true,
  applierRevokes: true,
  leaseFromSending: true,
  clearsMissedWhileLeased: true,
  clearsMissedAfterLease: true,
  clearsInNewList: true,
  listsHaveNames: true,
  revocationEndsFill: true,
  checksWithLookup: true,
  gateBeforeNear: true,
};
