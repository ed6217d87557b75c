/**
 * What is explored of the protocol of near caches. In each scenario the complete protocol must
 * hold. Each ablation takes one part away, and must break a promise. Every part is taken away at
 * least once.
 */
import { COMPLETE, type Parts } from './parts.js';
import type { Budgets, Setup } from './state.js';

export interface Ablation {
  /** What happens without the part. */
  readonly name: string;
  readonly part: keyof Parts;
  readonly breaks: 'G1' | 'agreement';
  readonly isLong: boolean;
}

export interface Scenario {
  readonly name: string;
  readonly setup: Setup;
  /** The complete protocol is explored in the long form only, for its size. */
  readonly isLong: boolean;
  readonly ablations: readonly Ablation[];
}

const NOTHING_FAILS: Budgets = { crashes: 0, keyLosses: 0, listLosses: 0, moves: 0 };

/** Any revocation, confirmation and renewal may be lost, and any lease end, in every scenario. */
const ONE_WRITE: Setup = {
  parts: COMPLETE,
  nodes: 1,
  writers: ['fences'],
  isPublishedAbsent: false,
  hasGates: false,
  hasAgreement: false,
  budgets: NOTHING_FAILS,
};

const scenario = (
  name: string,
  budgets: Partial<Budgets>,
  setup: Partial<Setup>,
  ablations: readonly Ablation[] = [],
): Scenario => ({
  name,
  setup: { ...ONE_WRITE, ...setup, budgets: { ...NOTHING_FAILS, ...budgets } },
  isLong: false,
  ablations,
});
const longScenario = (...all: Parameters<typeof scenario>): Scenario => ({
  ...scenario(...all),
  isLong: true,
});
const without = (part: keyof Parts, name: string, breaks: Ablation['breaks'] = 'G1'): Ablation => ({
  name,
  part,
  breaks,
  isLong: false,
});

export const SCENARIOS: readonly Scenario[] = [
  scenario('near: a write', {}, {}, [
    without('waitsForMembers', 'it is acknowledged before the nodes confirm'),
    without('revokesBehindFence', 'it revokes, then fences: the old row is filled in between'),
    without('clearsMissedWhileLeased', 'a node that renews while revocations are lost'),
    without('clearsMissedAfterLease', 'a node renews after its lease and has missed a revocation'),
    without('leaseFromSending', 'a lease counts from the reply'),
    without('revocationEndsFill', 'the old row is filled after the confirmation'),
    without('checksWithLookup', 'a reader looks up, pauses, and checks a renewed lease'),
  ]),
  scenario('near: agreement', {}, { hasAgreement: true }, [
    without(
      'waitsBeforeCommit',
      'a reader sees the new row in PostgreSQL, a later one the old row in memory',
      'agreement',
    ),
  ]),
  scenario('near: the list is lost', { listLosses: 1 }, {}, [
    without('clearsInNewList', 'a node that finds a new list keeps what it has'),
    without('listsHaveNames', 'the reply of the renewal that lists it again is lost'),
    without('waitsWhileIncomplete', 'an empty list is taken for "nobody"'),
    without('wholeAfterLease', 'a list counts as whole before all nodes have renewed'),
  ]),
  scenario('near: a writer dies', { crashes: 1 }, { writers: ['fences', 'follows'] }, [
    without('removesAfterWait', 'the second writer sees no node'),
    without('removalComparesRenewal', 'a node that only does not confirm is removed'),
  ]),
  scenario('near: the fence is lost', { keyLosses: 1 }, {}, [
    without('lostFenceRevokes', 'the old row is filled between the loss and COMMIT'),
  ]),
  scenario('near: a list or an alias, lost', { keyLosses: 1 }, { isPublishedAbsent: true }),
  scenario('near: a write without a fence', {}, { writers: ['degraded'], hasGates: true }, [
    without('applierRevokes', 'whoever applies its row only deletes the key'),
    without('gateBeforeNear', 'a node with a closed gate answers from its near cache'),
  ]),
  longScenario(
    'near: a write without a fence, and the epoch moves',
    { moves: 1 },
    { writers: ['degraded'], hasGates: true },
  ),
  longScenario(
    'near: a repetition of a write whose writer died',
    { crashes: 1, keyLosses: 1 },
    { writers: ['fences', 'repeats'] },
    [without('applierRevokes', 'the repetition only deletes the key')],
  ),
  longScenario('near: two writers', { crashes: 1 }, { writers: ['fences', 'fences'] }),
  longScenario('near: two nodes', {}, { nodes: 2 }),
  longScenario(
    'near: two writers, the list is lost',
    { crashes: 1, listLosses: 1 },
    { writers: ['fences', 'follows'] },
  ),
  longScenario(
    'near: a degraded write beside a fenced one',
    {},
    { writers: ['fences', 'degraded'], hasGates: true },
  ),
];
