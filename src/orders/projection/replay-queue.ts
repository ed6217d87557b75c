/**
 * Bounds the long replays of this process: a few run at once, others wait in a bounded room. Of two
 * callers, none can fill the room alone. A replay that waits holds no connection.
 */
import { Injectable } from '@nestjs/common';
import { FairQueue } from '../../platform/http/bounds/fair-queue.js';

/** Each holds a connection for a page at a time, and one page of events: a fifth of the pool. */
export const MAX_LONG_REPLAYS = 2;

export const REPLAY_LANES = {
  /**
   * A caller is a user. A thousand versions take 0.1 s, and 2 s if all have the largest items:
   * behind a greedy caller, another one waits 6 s at most.
   */
  replay: { weight: 1, maxWaiting: 8, maxWaitingOfCaller: 2 },
} as const;

@Injectable()
export class ReplayQueue extends FairQueue<'replay'> {
  constructor() {
    super(MAX_LONG_REPLAYS, REPLAY_LANES);
  }
}
