/** What one caller, one address or the whole process takes at the moment. */
import type { ServerResponse } from 'node:http';
import { problems } from '../problems/problem.js';
import type { Share } from './bounds.js';

/** Of the bound of unread bytes. Past it, a read would be built in vain. */
const NEARLY_UNREAD_SHARE = 7 / 8;

export type BoundName = 'process' | 'address' | 'caller';

export class Usage {
  requests = 0;
  unreadBytes = 0;

  constructor(
    readonly boundName: BoundName,
    private readonly share: Share,
  ) {}

  get isFull(): boolean {
    const { requests, unreadBytes } = this.share;
    return this.requests >= requests || this.unreadBytes >= unreadBytes;
  }

  /** Whether one more large response would hardly have room. */
  get isNearlyUnread(): boolean {
    return this.unreadBytes >= NEARLY_UNREAD_SHARE * this.share.unreadBytes;
  }

  hasRoomFor(bytes: number): boolean {
    return this.unreadBytes + bytes <= this.share.unreadBytes;
  }
}

/** One caller's requests. Some are worked on; the others wait for these, in their order. */
export class CallerUsage extends Usage {
  private workedOn = 0;
  private readonly waiting = new Set<() => void>();

  constructor(
    share: Share,
    private readonly maxWorkedOn: number,
  ) {
    super('caller', share);
  }

  /**
   * Resolves when one more request may be worked on. Every one of these ends with {@link endWork}.
   * @throws Problem overloaded when the client has gone while it waited
   */
  async beginWork(response: ServerResponse): Promise<void> {
    if (this.workedOn < this.maxWorkedOn) {
      this.workedOn++;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      this.waiting.add(resolve);
      response.once('close', () => {
        if (this.waiting.delete(resolve)) reject(problems.overloaded());
      });
    });
  }

  endWork(): void {
    const [next] = this.waiting;
    if (next) {
      // Its place goes to the next one, so `workedOn` stays.
      this.waiting.delete(next);
      // Others get their turn of the event loop in between.
      setImmediate(next);
    } else {
      this.workedOn--;
    }
  }
}
