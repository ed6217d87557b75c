/**
 * Decides which reads were stale, from the logs alone. A read is stale when a newer version of its
 * row had been acknowledged, by any node, before the read began.
 */
import { percentile } from '../../support/percentile.js';
import type { Events, Log } from './protocol.js';

export interface PeerResult {
  readonly title: string;
  readonly settings: string;
  readonly reads: number;
  readonly staleReads: number;
  /** From an acknowledgement to the beginning of the latest read that still missed it. */
  readonly longestMs: number;
  /** Of `keys`: rows on nodes that showed an old version after the writers had stopped. */
  readonly keysLeftStale: number;
  readonly keys: number;
  /** From 0 to 1. */
  readonly hitRatio: number;
  readonly readsPerSecond: number;
  readonly writesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly failures: readonly string[];
}

/** One row's acknowledged versions, by time; each is newer than all before. */
type RowHistory = { readonly at: number; readonly version: number }[];

export function summarizePeer(
  peer: { readonly title: string; readonly settings: string },
  logs: readonly Log[],
  seconds: number,
  left: { readonly keysLeftStale: number; readonly keys: number },
): PeerResult {
  const sumOf = (count: (log: Log) => number): number =>
    logs.reduce((sum, log) => sum + count(log), 0);
  const reads = sumOf((log) => log.reads.at.length);
  const writes = sumOf((log) => log.writes.at.length);
  const loaded = sumOf((log) => log.rowsLoaded);
  const tookNs = logs.flatMap((log) => [...log.reads.took]);
  return {
    ...left,
    ...countStaleReads(logs),
    title: peer.title,
    settings: peer.settings,
    reads,
    hitRatio: Math.max(0, 1 - loaded / reads),
    readsPerSecond: reads / seconds,
    writesPerSecond: writes / seconds,
    p50Ms: percentile(tookNs, 0.5) / 1e6,
    p99Ms: percentile(tookNs, 0.99) / 1e6,
    failures: logs.flatMap((log) => log.failures),
  };
}

export function staleReadsPerMillion({
  staleReads,
  reads,
}: Pick<PeerResult, 'staleReads' | 'reads'>): number {
  return reads === 0 ? 0 : (staleReads / reads) * 1e6;
}

function countStaleReads(logs: readonly Log[]): Pick<PeerResult, 'staleReads' | 'longestMs'> {
  const histories = rowHistories(logs.map(({ writes }) => writes));
  let staleReads = 0;
  let longestMs = 0;
  for (const { reads } of logs) {
    reads.at.forEach((began, index) => {
      const history = histories.get(reads.row[index] as number) ?? [];
      const newer = firstNewer(history, reads.version[index] as number);
      if (!newer || newer.at >= began) return;
      staleReads++;
      longestMs = Math.max(longestMs, (began - newer.at) / 1e6);
    });
  }
  return { staleReads, longestMs };
}

function rowHistories(writes: readonly Events[]): Map<number, RowHistory> {
  const histories = new Map<number, RowHistory>();
  for (const { at, row, version } of writes) {
    at.forEach((time, index) => {
      const history = histories.get(row[index] as number) ?? [];
      history.push({ at: time, version: version[index] as number });
      histories.set(row[index] as number, history);
    });
  }
  for (const [row, history] of histories) histories.set(row, increasingVersions(history));
  return histories;
}

/** Acknowledgements may overtake each other: keeps those that are newer than all before. */
function increasingVersions(history: RowHistory): RowHistory {
  let newest = 0;
  return history
    .toSorted((a, b) => a.at - b.at)
    .filter(({ version }) => {
      const isNewer = version > newest;
      if (isNewer) newest = version;
      return isNewer;
    });
}

/** Binary search for the first entry with a newer version. */
function firstNewer(history: RowHistory, version: number): RowHistory[number] | undefined {
  let [low, high] = [0, history.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((history[middle] as RowHistory[number]).version > version) high = middle;
    else low = middle + 1;
  }
  return history[low];
}
