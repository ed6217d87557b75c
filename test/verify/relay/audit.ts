/**
 * Judges what arrived in a queue, without knowledge of relays: each written event arrived at least
 * once, nothing else arrived, and the first arrivals of each subject are in the order of writing.
 */

export interface WrittenEvent {
  readonly id: string;
  readonly subject: string;
}

/** Events are named by their ids. */
export interface Verdict {
  /** Number of events that were written. */
  readonly written: number;
  /** Number of messages that arrived. */
  readonly arrivals: number;
  /** Written events that never arrived. */
  readonly lost: readonly string[];
  /** Arrived events that nobody wrote. */
  readonly invented: readonly string[];
  /** Number of arrivals of an event after its first. */
  readonly repeats: number;
  /** Events whose first arrival came after that of a later event of the same subject. */
  readonly outOfOrder: readonly string[];
}

/**
 * @param written in the order of writing, within each subject
 * @param arrivals ids in the order of arrival
 */
export function audit(written: readonly WrittenEvent[], arrivals: readonly string[]): Verdict {
  const indexById = new Map(written.map(({ id }, index) => [id, index]));
  const latestBySubject = new Map<string, number>();
  const seen = new Set<string>();
  const invented: string[] = [];
  const outOfOrder: string[] = [];
  for (const id of arrivals) {
    const index = indexById.get(id);
    if (index === undefined) {
      invented.push(id);
    } else if (!seen.has(id)) {
      seen.add(id);
      const { subject } = written[index] as WrittenEvent;
      const latest = latestBySubject.get(subject) ?? -1;
      if (index < latest) outOfOrder.push(id);
      latestBySubject.set(subject, Math.max(latest, index));
    }
  }
  return {
    written: written.length,
    arrivals: arrivals.length,
    lost: written.map(({ id }) => id).filter((id) => !seen.has(id)),
    invented,
    repeats: arrivals.length - invented.length - seen.size,
    outOfOrder,
  };
}
