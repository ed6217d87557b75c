/**
 * Whether this node's relay runs, and whether the partitions move, whoever has locked them. A relay
 * that hangs, or a session that PostgreSQL takes for alive, keeps partitions locked: their first
 * waiting event then stays the same.
 */

/** Above the time in which PostgreSQL ends the session of a relay that is gone. */
export const MAX_STALL_MS = 60_000;

export class RelayProgress {
  private passEndedAt: number;
  /** By partition: its first waiting event, and since when it is the first. */
  private readonly firsts = new Map<
    number,
    { readonly position: number; readonly since: number }
  >();

  /** @param now milliseconds, like performance.now */
  constructor(private readonly now: () => number = () => performance.now()) {
    this.passEndedAt = now();
  }

  /** Records the first waiting event of a partition; null when no event waits. */
  recordFirst(partition: number, position: number | null): void {
    if (position === null) {
      this.firsts.delete(partition);
    } else if (this.firsts.get(partition)?.position !== position) {
      this.firsts.set(partition, { position, since: this.now() });
    }
  }

  recordPass(): void {
    this.passEndedAt = this.now();
  }

  /** While the broker takes no messages, no partition moves. */
  reset(): void {
    this.firsts.clear();
    this.recordPass();
  }

  get secondsSincePass(): number {
    return (this.now() - this.passEndedAt) / 1_000;
  }

  /** Partitions whose first waiting event has been the same for more than a minute. */
  get stalledPartitions(): number[] {
    const oldestAllowed = this.now() - MAX_STALL_MS;
    const stalled = [...this.firsts].filter(([, { since }]) => since < oldestAllowed);
    return stalled.map(([partition]) => partition).sort((a, b) => a - b);
  }

  /** What is wrong, for operators; undefined when nothing is. */
  get stallReason(): string | undefined {
    const seconds = Math.round(this.secondsSincePass);
    if (seconds * 1_000 > MAX_STALL_MS) {
      return `the relay of this process has not finished a pass for ${seconds} s`;
    }
    const { stalledPartitions } = this;
    if (stalledPartitions.length === 0) return undefined;
    const partitions = stalledPartitions.join(', ');
    return `events wait in partitions that have not moved for a minute: ${partitions}`;
  }
}
