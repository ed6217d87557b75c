/**
 * Shares the hashing threads between kinds of work (docs/adr/0020-known-devices.md). A flood of one
 * kind does not lengthen the wait of another.
 */
import {
  FairQueue,
  type LaneBounds,
  type QueueTurn,
} from '../../platform/http/bounds/fair-queue.js';

/** In the order in which lanes are served when all began to wait at the same time. */
export const LANES = {
  /** Logins from a device of the user. A caller is a user: nobody else can fill a place. */
  'known-device': { weight: 4, maxWaiting: 40, maxWaitingOfCaller: 4 },
  /** Other logins. A caller is a network. */
  login: { weight: 2, maxWaiting: 40, maxWaitingOfCaller: 20 },
  /** Registrations and password changes. A caller is a network or a user. */
  'new-password': { weight: 1, maxWaiting: 20, maxWaitingOfCaller: 10 },
} as const satisfies Record<string, LaneBounds>;

export type LaneName = keyof typeof LANES;

/** Who asks for a thread, and in which lane. */
export type HashingTurn = QueueTurn<LaneName>;

export class HashingQueue extends FairQueue<LaneName> {
  /** @param threads how much work runs at once */
  constructor(threads: number) {
    super(threads, LANES);
  }
}
