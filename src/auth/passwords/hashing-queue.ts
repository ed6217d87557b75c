/**
 * Shares the hashing threads between kinds of work. Each kind waits in a lane of its own, and busy
 * lanes take turns by weight. Invariants: every lane is bounded, so is the share of each caller in
 * it, and a flood in one lane does not lengthen another (docs/adr/0020-known-devices.md).
 */
import { problems, RETRY_LATER } from '../../platform/http/problems/problem.js';

export interface LaneBounds {
  /** Of two busy lanes, one with twice the weight starts twice as much work. */
  readonly weight: number;
  /** Requests that wait, for each thread. */
  readonly maxWaiting: number;
  /** Of these, requests of one caller. */
  readonly maxWaitingOfCaller: number;
}

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
export interface HashingTurn {
  readonly lane: LaneName;
  readonly caller: string;
}

interface Waiting {
  readonly caller: string;
  readonly start: () => void;
  readonly reject: (problem: Error) => void;
}

class Lane {
  /** Oldest first. */
  private readonly waiting: Waiting[] = [];
  private readonly countOf = new Map<string, number>();
  /** Moved by the queue: the lane with the greatest credit is served next. */
  credit = 0;

  constructor(
    readonly bounds: LaneBounds,
    private readonly threads: number,
  ) {}

  get isEmpty(): boolean {
    return this.waiting.length === 0;
  }

  /** @throws Problem overloaded when the lane, or the caller's share of it, is full */
  push(entry: Waiting): void {
    const { maxWaiting, maxWaitingOfCaller } = this.bounds;
    const ofCaller = this.countOf.get(entry.caller) ?? 0;
    if (ofCaller >= maxWaitingOfCaller * this.threads) throw overloaded();
    const isFull = this.waiting.length >= maxWaiting * this.threads;
    if (isFull) this.displaceFor(ofCaller);
    this.waiting.push(entry);
    this.countOf.set(entry.caller, ofCaller + 1);
  }

  shift(): Waiting | undefined {
    const [entry] = this.waiting.splice(0, 1);
    if (entry) this.uncount(entry.caller);
    return entry;
  }

  /**
   * Makes room in a full lane: the caller with the most requests loses its newest one.
   * @throws Problem overloaded when nobody has clearly more requests than the new caller
   */
  private displaceFor(ofNewCaller: number): void {
    const [heaviest] = [...this.countOf].sort(([, a], [, b]) => b - a);
    if (heaviest === undefined || heaviest[1] <= ofNewCaller + 1) throw overloaded();
    const index = this.waiting.findLastIndex(({ caller }) => caller === heaviest[0]);
    const [displaced] = this.waiting.splice(index, 1);
    this.uncount(heaviest[0]);
    displaced?.reject(overloaded());
  }

  private uncount(caller: string): void {
    const left = (this.countOf.get(caller) ?? 0) - 1;
    if (left > 0) this.countOf.set(caller, left);
    else this.countOf.delete(caller);
  }
}

export class HashingQueue {
  private running = 0;
  private readonly lanes: Readonly<Record<LaneName, Lane>>;

  /** @param threads how much work runs at once */
  constructor(private readonly threads: number) {
    this.lanes = {
      'known-device': new Lane(LANES['known-device'], threads),
      login: new Lane(LANES.login, threads),
      'new-password': new Lane(LANES['new-password'], threads),
    };
  }

  /**
   * Runs the work when it is its turn.
   * @throws Problem overloaded when its lane or the caller's share of it is full, at once or, when
   *   lighter callers need the place, later; whatever `work` throws
   */
  async run<T>(turn: HashingTurn, work: () => Promise<T>): Promise<T> {
    await this.awaitTurn(turn);
    try {
      return await work();
    } finally {
      this.startNext();
    }
  }

  private awaitTurn({ lane, caller }: HashingTurn): Promise<void> | undefined {
    if (this.running < this.threads) {
      this.running++;
      return undefined;
    }
    return new Promise((start, reject) => this.lanes[lane].push({ caller, start, reject }));
  }

  /** Hands the thread of finished work on. */
  private startNext(): void {
    const next = this.nextLane()?.shift();
    if (next) next.start();
    else this.running--;
  }

  /** Smooth weighted round robin (nginx): no lane is served twice while a heavier one waits. */
  private nextLane(): Lane | undefined {
    const busy = Object.values(this.lanes).filter((lane) => !lane.isEmpty);
    busy.forEach((lane) => (lane.credit += lane.bounds.weight));
    const [next] = [...busy].sort((a, b) => b.credit - a.credit);
    if (!next) return undefined;
    next.credit -= busy.reduce((sum, { bounds }) => sum + bounds.weight, 0);
    return next;
  }
}

const overloaded = (): Error => problems.overloaded(undefined, RETRY_LATER);
