/**
 * The protocol's steps once more, as small as possible: one cell for each key and a logical clock.
 * It shares no code with the stores, so what all three agree on is the protocol and not a mistake
 * that one author repeated.
 */

export interface Entry {
  readonly version: number;
  /** Null: a negative entry. */
  readonly payload: string | null;
  readonly ttlMs: number;
}

interface LeaseOrFence {
  readonly step: 'lease' | 'fence';
  readonly keys: string[];
  readonly token: string;
  readonly ms: number;
}

interface FillOrPublish {
  readonly step: 'fill' | 'publish';
  readonly keys: string[];
  readonly token: string;
  readonly entry: Entry;
}

interface Replace {
  readonly step: 'replace';
  readonly keys: string[];
  /** Whether the replaced value is one that no key holds. */
  readonly isMissed: boolean;
  /** `ttlMs: 0` keeps the expiry of the replaced value. */
  readonly entry: Entry & { payload: string };
}

/** `retract` publishes an absence. */
interface RetractOrUnfence {
  readonly step: 'retract' | 'unfence';
  readonly keys: string[];
  readonly token: string;
}

export type KeyStep = LeaseOrFence | FillOrPublish | Replace | RetractOrUnfence;
export type Step = KeyStep | { readonly step: 'wait' };

/** What a step answers for one key: the state before it, or whether it stored its entry. */
type Answer = string | boolean | undefined;

interface Writer {
  readonly token: string;
  readonly deadline: number;
}

interface Fence {
  readonly floor: number;
  readonly writers: readonly Writer[];
}

/** At most one of the three; none: absent. */
interface Cell {
  readonly expiresAt: number;
  /** The token of the reader that holds the lease. */
  readonly lease?: string;
  readonly entry?: Entry;
  readonly fence?: Fence;
}

const ABSENT: Cell = { expiresAt: Infinity };
const UNREACHABLE_FLOOR = Number.MAX_SAFE_INTEGER;

export class StoreModel {
  now = 0;
  private readonly cells = new Map<string, Cell>();

  /** The key in a word, like `show` in store-contract.ts. */
  show(key: string): string {
    const { lease, entry, fence } = this.readCell(key);
    if (entry) return `${entry.payload ?? 'none'}@${entry.version}`;
    if (fence) return 'fence';
    return lease === undefined ? 'absent' : 'lease';
  }

  /** @returns the answer for each key */
  apply(step: KeyStep): Answer[] {
    return step.keys.map((key) => {
      const shownBefore = this.show(key);
      const before = this.readCell(key);
      const after = this.cellAfter(before, step);
      this.cells.set(key, after);
      if (step.step === 'lease') return shownBefore;
      const canStore = step.step === 'fill' || step.step === 'replace';
      return canStore ? after !== before && after.entry !== undefined : undefined;
    });
  }

  /** The cell without what has expired. */
  private readCell(key: string): Cell {
    const cell = this.cells.get(key);
    if (!cell || cell.expiresAt <= this.now) return ABSENT;
    const { fence } = cell;
    if (!fence) return cell;
    const writers = fence.writers.filter(({ deadline }) => deadline > this.now);
    if (writers.length === fence.writers.length) return cell;
    return { ...cell, fence: { floor: UNREACHABLE_FLOOR, writers } };
  }

  private cellAfter(cell: Cell, step: KeyStep): Cell {
    switch (step.step) {
      case 'lease':
        return this.afterLease(cell, step);
      case 'fill':
        return cell.lease === step.token ? this.entryCell(step.entry) : cell;
      case 'replace':
        return this.afterReplace(cell, step);
      case 'fence':
        return this.afterFence(cell, step);
      case 'publish':
        return this.afterPublish(cell, step);
      case 'retract':
        return cell.fence ? leaveFence(cell.fence, step.token, UNREACHABLE_FLOOR) : ABSENT;
      case 'unfence':
        return cell.fence ? leaveFence(cell.fence, step.token, cell.fence.floor) : cell;
    }
  }

  private afterLease(cell: Cell, { token, ms }: LeaseOrFence): Cell {
    const isAbsent = cell.lease === undefined && !cell.entry && !cell.fence;
    return isAbsent ? { expiresAt: this.now + ms, lease: token } : cell;
  }

  private afterReplace(cell: Cell, { entry, isMissed }: Replace): Cell {
    const isValue = typeof cell.entry?.payload === 'string';
    if (isMissed || !isValue) return cell;
    return entry.ttlMs === 0 ? { ...cell, entry } : this.entryCell(entry);
  }

  private afterFence({ fence, entry }: Cell, { token, ms }: LeaseOrFence): Cell {
    const writers = fence?.writers ?? [];
    const ownDeadline = writers.find((writer) => writer.token === token)?.deadline ?? 0;
    const deadline = Math.max(ownDeadline, this.now + ms);
    const otherWriters = writers.filter((writer) => writer.token !== token);
    const floor = fence?.floor ?? entry?.version ?? 0;
    return fenceCell(floor, [...otherWriters, { token, deadline }]);
  }

  private afterPublish(cell: Cell, { token, entry }: FillOrPublish): Cell {
    const { version } = entry;
    if (cell.fence) {
      const { floor, writers } = cell.fence;
      const left = leaveFence(cell.fence, token, Math.max(floor, version));
      if (left.fence) return left;
      const isOwnFence = writers.some((writer) => writer.token === token);
      return isOwnFence && version >= floor ? this.entryCell(entry) : ABSENT;
    }
    if (!cell.entry) return ABSENT;
    if (version <= cell.entry.version) return cell;
    return cell.entry.payload === null ? ABSENT : this.entryCell(entry);
  }

  private entryCell(entry: Entry): Cell {
    return { expiresAt: this.now + entry.ttlMs, entry };
  }
}

function fenceCell(floor: number, writers: readonly Writer[]): Cell {
  const deadlines = writers.map(({ deadline }) => deadline);
  return { expiresAt: Math.max(...deadlines), fence: { floor, writers } };
}

/** The fence without one writer; absent if that was the last. */
function leaveFence({ writers }: Fence, token: string, floor: number): Cell {
  const otherWriters = writers.filter((writer) => writer.token !== token);
  return otherWriters.length > 0 ? fenceCell(floor, otherWriters) : ABSENT;
}
