/** What one caller, one address or the whole process takes at the moment. */
import type { ServerResponse } from 'node:http';
import { problems, RETRY_LATER } from '../problems/problem.js';
import type { Share, UploadShare } from './bounds.js';

/** Of the bound of unread bytes. Past it, a read would be built in vain. */
const NEARLY_UNREAD_SHARE = 7 / 8;

export type BoundName = 'process' | 'address' | 'caller';

export class Usage {
  requests = 0;
  unreadBytes = 0;
  arrivingBytes = 0;

  constructor(
    readonly boundName: BoundName,
    private readonly share: Share & Partial<UploadShare>,
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

  hasRoomForBody(bytes: number): boolean {
    return this.arrivingBytes + bytes <= (this.share.arrivingBytes ?? Infinity);
  }
}

/** One caller's requests. Some are worked on; the others wait for these, in their order. */
export class CallerUsage extends Usage {
  private workedOn = 0;
  private readonly waiting = new Set<() => void>();

  constructor(
    share: Share,
    private readonly maxWorkedOn: number,
    private readonly maxWaitMs: number,
  ) {
    super('caller', share);
  }

  /**
   * Resolves when one more request may be worked on. Every one of these ends with {@link endWork}.
   * @throws Problem overloaded when it has waited too long, or its client has gone meanwhile
   */
  async beginWork(response: ServerResponse): Promise<void> {
    if (this.workedOn < this.maxWorkedOn) {
      this.workedOn++;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const giveUp = (): void => {
        if (this.waiting.delete(resolve)) reject(problems.overloaded(undefined, RETRY_LATER));
      };
      this.waiting.add(resolve);
      const timer = setTimeout(giveUp, this.maxWaitMs).unref();
      response.once('close', () => {
        clearTimeout(timer);
        giveUp();
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
