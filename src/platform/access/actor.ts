/**
 * The caller of a request, as every module sees it. The guard (src/auth/auth.guard.ts) makes it;
 * policy.ts decides what it may do. Nothing here knows HTTP.
 */
import type { Transaction } from '../database/transaction.js';

export const ROLES = ['user', 'support', 'admin'] as const;
export type Role = (typeof ROLES)[number];

/** A user with a live session. */
export interface Actor {
  readonly userId: string;
  readonly roles: readonly Role[];
  readonly sessionId: string;
  /**
   * Locks the caller's session: it cannot end before the transaction does.
   * @throws Problem unauthenticated when the session has ended already
   */
  readonly lockSession: (transaction: Transaction) => Promise<void>;
}
