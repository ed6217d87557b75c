/**
 * Bounds the log lines of each event, so that a flood of requests is not a flood of log lines.
 * Invariant: each line either passes or is counted in exactly one report.
 */

/** Lines of one event that pass in one second. */
export const MAX_LINES_PER_SECOND = 20;
/** Reports of one event in one second. Lines of further groups are counted together. */
export const MAX_GROUPS_PER_SECOND = 100;
const WINDOW_MS = 1_000;

/** The group of the lines that found {@link MAX_GROUPS_PER_SECOND} groups before them. */
export const FURTHER_GROUPS = 'others';

interface EventCounts {
  passed: number;
  /** By group. */
  readonly suppressed: Map<string, number>;
}

export class LineLimit {
  private readonly counts = new Map<string, EventCounts>();
  private timer: NodeJS.Timeout | undefined;

  /** @param report called at the end of a second for each group of an event with more lines */
  constructor(
    private readonly report: (event: string, group: string, suppressed: number) => void,
  ) {}

  /**
   * Counts a line of `event`. The first line after a pause begins a new second.
   * @param group what the lines of one report have in common, e.g. the account and the address
   */
  allows(event: string, group: string): boolean {
    this.timer ??= setTimeout(() => this.endWindow(), WINDOW_MS).unref();
    const counts = this.counts.get(event) ?? { passed: 0, suppressed: new Map<string, number>() };
    this.counts.set(event, counts);
    if (counts.passed < MAX_LINES_PER_SECOND) {
      counts.passed++;
      return true;
    }
    const { suppressed } = counts;
    const hasPlace = suppressed.has(group) || suppressed.size < MAX_GROUPS_PER_SECOND;
    const counted = hasPlace ? group : FURTHER_GROUPS;
    suppressed.set(counted, (suppressed.get(counted) ?? 0) + 1);
    return false;
  }

  /** Reports what was suppressed so far. Called at the end of each second, and at the shutdown. */
  endWindow(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const [event, { suppressed }] of this.counts) {
      for (const [group, count] of suppressed) this.report(event, group, count);
    }
    this.counts.clear();
  }
}
