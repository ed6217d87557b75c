/**
 * The protocol once more, as small as it gets: one key's cell and what each step makes of it, by a logical clock. It shares
 * no code with the stores, so that what all three agree on is the protocol and not a habit of one author's.
 */

export type Step =
  | {
      readonly step: 'lease' | 'fence';
      readonly keys: string[];
      readonly token: string;
      readonly ms: number;
    }
  | {
      readonly step: 'fill' | 'publish';
      readonly keys: string[];
      readonly token: string;
      readonly entry: Entry;
    }
  /** Of the value that is there, or (`missed`) of one that nobody has. */
  | {
      readonly step: 'replace';
      readonly keys: string[];
      readonly missed: boolean;
      readonly entry: Entry & { payload: string };
    }
  | { readonly step: 'retract' | 'unfence'; readonly keys: string[]; readonly token: string }
  | { readonly step: 'wait' };

export interface Entry {
  readonly version: number;
  readonly payload: string | null;
  readonly ttlMs: number;
}

interface Cell {
  until: number;
  lease?: string;
  entry?: Entry;
  fence?: { floor: number; writers: { token: string; until: number }[] };
}

export class StoreModel {
  now = 0;
  private readonly cells = new Map<string, Cell>();

  /** The key in a word, as `show` in store.contract.ts puts it. */
  show(key: string): string {
    const { lease, entry, fence } = this.cell(key);
    if (entry) return `${entry.payload ?? 'none'}@${entry.version}`;
    return fence ? 'fence' : lease !== undefined ? 'lease' : 'absent';
  }

  /** What the step answers for each key: what was seen for a lease, whether it was written for a fill or a replacement. */
  apply(step: Step): (string | boolean | undefined)[] {
    if (step.step === 'wait') return [];
    return step.keys.map((key) => {
      const before = this.show(key);
      const cell = this.cell(key);
      const after = this.after(cell, step);
      if (after) this.cells.set(key, after);
      else this.cells.delete(key);
      if (step.step === 'lease') return before;
      return step.step === 'fill' || step.step === 'replace'
        ? after !== cell && !!after?.entry
        : undefined;
    });
  }

  private cell(key: string): Cell {
    const cell = this.cells.get(key);
    if (!cell || cell.until <= this.now) return { until: Infinity };
    if (cell.fence?.writers.some((writer) => writer.until <= this.now)) {
      cell.fence.writers = cell.fence.writers.filter((writer) => writer.until > this.now);
      cell.fence.floor = Number.MAX_SAFE_INTEGER;
    }
    return cell;
  }

  private after(cell: Cell, step: Exclude<Step, { step: 'wait' }>): Cell | undefined {
    const { lease, entry, fence } = cell;
    if (step.step === 'replace') {
      if (step.missed || typeof entry?.payload !== 'string') return cell;
      return {
        until: step.entry.ttlMs === 0 ? cell.until : this.now + step.entry.ttlMs,
        entry: step.entry,
      };
    }
    const writers = fence?.writers ?? [];
    const others = writers.filter((writer) => writer.token !== step.token);
    const mine = writers.find((writer) => writer.token === step.token);
    const lasting = (by: typeof writers) => Math.max(...by.map((writer) => writer.until));
    const fenced = (floor: number, by = others): Cell => ({
      until: lasting(by),
      fence: { floor, writers: by },
    });
    if (step.step === 'lease') {
      return lease !== undefined || entry || fence
        ? cell
        : { until: this.now + step.ms, lease: step.token };
    }
    if (step.step === 'fence') {
      const until = Math.max(this.now + step.ms, mine?.until ?? 0);
      return fenced(fence?.floor ?? entry?.version ?? 0, [...others, { token: step.token, until }]);
    }
    if (step.step === 'unfence')
      return !fence ? cell : others.length > 0 ? fenced(fence.floor) : undefined;
    if (!('entry' in step))
      return fence && others.length > 0 ? fenced(Number.MAX_SAFE_INTEGER) : undefined;
    const written: Cell = { until: this.now + step.entry.ttlMs, entry: step.entry };
    if (step.step === 'fill') return lease === step.token ? written : cell;
    const { version } = step.entry;
    if (fence && others.length > 0) return fenced(Math.max(fence.floor, version));
    if (fence) return mine && version >= fence.floor ? written : undefined;
    if (entry)
      return version <= entry.version ? cell : entry.payload === null ? undefined : written;
    return undefined;
  }
}
