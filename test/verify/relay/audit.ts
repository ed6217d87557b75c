/**
 * The judge of what arrived: knows nothing of relays. Each event that was written must have arrived at least once, nothing
 * else may have, and of each aggregate the first arrivals must be in the order in which its events were written.
 */

export interface Written {
  readonly id: string;
  readonly subject: string;
}

export interface Verdict {
  readonly written: number;
  readonly arrivals: number;
  /** Ids that never arrived. */
  readonly lost: readonly string[];
  /** Ids that nobody wrote. */
  readonly invented: readonly string[];
  /** Arrivals of an id after its first. */
  readonly repeats: number;
  /** Ids whose first arrival came after that of a later event of the same subject. */
  readonly outOfOrder: readonly string[];
}

/** @param written in the order of writing, as far as one subject goes @param arrivals ids, in the order of arrival */
export function audit(written: readonly Written[], arrivals: readonly string[]): Verdict {
  const places = new Map(written.map(({ id, subject }, place) => [id, { subject, place }]));
  const latest = new Map<string, number>();
  const seen = new Set<string>();
  const invented: string[] = [];
  const outOfOrder: string[] = [];
  for (const id of arrivals) {
    const event = places.get(id);
    if (!event) invented.push(id);
    if (!event || seen.has(id)) continue;
    seen.add(id);
    const { subject, place } = event;
    const before = latest.get(subject) ?? -1;
    if (place < before) outOfOrder.push(id);
    latest.set(subject, Math.max(before, place));
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
