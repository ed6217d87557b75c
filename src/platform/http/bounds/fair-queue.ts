/**
 * Shares a few places between kinds of work. Each kind waits in a lane of its own, and busy lanes
 * take turns by weight. Invariants: every lane is bounded, so is the share of each caller in it,
 * and a flood in one lane does not lengthen another.
 */
import { problems, RETRY_LATER } from '../problems/problem.js';

export interface LaneBounds {
  /** Of two busy lanes, one with twice the weight starts twice as much work. */
  readonly weight: number;
  /** Requests that wait, for each place. */
  readonly maxWaiting: number;
  /** Of these, requests of one caller. */
  readonly maxWaitingOfCaller: number;
}

/** Who asks for a place, and in which lane. */
export interface QueueTurn<LaneName extends string> {
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
    private readonly places: number,
  ) {}

  get isEmpty(): boolean {
    return this.waiting.length === 0;
  }

  /** @throws Problem overloaded when the lane, or the caller's share of it, is full */
  push(entry: Waiting): void {
    const { maxWaiting, maxWaitingOfCaller } = this.bounds;
    const ofCaller = this.countOf.get(entry.caller) ?? 0;
    if (ofCaller >= maxWaitingOfCaller * this.places) throw overloaded();
    const isFull = this.waiting.length >= maxWaiting * this.places;
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

export class FairQueue<LaneName extends string> {
  private running = 0;
  private readonly lanes: ReadonlyMap<LaneName, Lane>;

  /**
   * @param places how much work runs at once
   * @param lanes in the order in which they are served when all began to wait at the same time
   */
  constructor(
    private readonly places: number,
    lanes: Readonly<Record<LaneName, LaneBounds>>,
  ) {
    const entries = Object.entries<LaneBounds>(lanes) as [LaneName, LaneBounds][];
    this.lanes = new Map(entries.map(([name, bounds]) => [name, new Lane(bounds, places)]));
  }

  /**
   * Runs the work when it is its turn.
   * @throws Problem overloaded when its lane or the caller's share of it is full, at once or, when
   *   lighter callers need the place, later; whatever `work` throws
   */
  async run<T>(turn: QueueTurn<LaneName>, work: () => Promise<T>): Promise<T> {
    await this.awaitTurn(turn);
    try {
      return await work();
    } finally {
      this.startNext();
    }
  }

  private awaitTurn({ lane, caller }: QueueTurn<LaneName>): Promise<void> | undefined {
    if (this.running < this.places) {
      this.running++;
      return undefined;
    }
    return new Promise((start, reject) => this.laneOf(lane).push({ caller, start, reject }));
  }

  private laneOf(name: LaneName): Lane {
    const lane = this.lanes.get(name);
    if (!lane) throw new Error(`There is no lane "${name}"`);
    return lane;
  }

  /** Hands the place of finished work on. */
  private startNext(): void {
    const next = this.nextLane()?.shift();
    if (next) next.start();
    else this.running--;
  }

  /** Smooth weighted round robin (nginx): no lane is served twice while a heavier one waits. */
  private nextLane(): Lane | undefined {
    const busy = [...this.lanes.values()].filter((lane) => !lane.isEmpty);
    busy.forEach((lane) => (lane.credit += lane.bounds.weight));
    const [next] = [...busy].sort((a, b) => b.credit - a.credit);
    if (!next) return undefined;
    next.credit -= busy.reduce((sum, { bounds }) => sum + bounds.weight, 0);
    return next;
  }
}

const overloaded = (): Error => problems.overloaded(undefined, RETRY_LATER);
