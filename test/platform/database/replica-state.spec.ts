/** What makes a server fit to answer for a primary, and how old its data is. */
import { describe, expect, it } from '@jest/globals';
import {
  findReplicaProblem,
  freshnessOf,
  type ServerState,
} from '../../../src/platform/database/replica-state.js';

const PRIMARY: ServerState = {
  isInRecovery: false,
  systemId: '7300000000000000001',
  timeline: 3,
  position: 1_000n,
  replayAgeMs: null,
};
/** A replica that lags by 5 s. */
const REPLICA: ServerState = { ...PRIMARY, isInRecovery: true, position: 900n, replayAgeMs: 5_000 };
const ASKED_AT = Date.parse('2026-01-31T12:00:00.000Z');

describe('a server', () => {
  it.each<[string, Partial<ServerState>]>([
    ['that lags', {}],
    ['that has everything', { position: 1_000n }],
    ['that has everything, and has replayed no commit', { position: 1_000n, replayAgeMs: null }],
  ])('%s is fit', (_, state) => {
    expect(findReplicaProblem({ ...REPLICA, ...state }, PRIMARY)).toBeUndefined();
  });

  it.each<[string, Partial<ServerState>, string]>([
    ['that accepts writes', { isInRecovery: false }, 'is not a replica: it accepts writes'],
    ['of another system', { systemId: '7300000000000000002' }, 'is a replica of another system'],
    ['on an older timeline', { timeline: 2 }, 'follows timeline 2, the primary is on 3'],
    ['on a newer timeline', { timeline: 4 }, 'follows timeline 4, the primary is on 3'],
    ['that is ahead', { position: 1_001n }, 'has replayed what the primary never wrote'],
    [
      'that lags by an unknown time',
      { replayAgeMs: null },
      'has replayed no commit since its start, so the age of its data is unknown',
    ],
  ])('%s is not fit', (_, state, problem) => {
    expect(findReplicaProblem({ ...REPLICA, ...state }, PRIMARY)).toBe(problem);
  });

  it('has the commits before its last replayed one', () => {
    expect(freshnessOf(REPLICA, PRIMARY, ASKED_AT)).toBe(ASKED_AT - 5_000);
  });

  it('that has everything has the commits before the question, however old the last is', () => {
    expect(freshnessOf({ ...REPLICA, position: 1_000n }, PRIMARY, ASKED_AT)).toBe(ASKED_AT);
  });
});
