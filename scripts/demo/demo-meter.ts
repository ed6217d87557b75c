/**
 * What the demo measured: requests, failures and latencies by operation, how the cache answered,
 * and the promises that a response broke. A latency runs from before the request to the end of the
 * body. It does not include waiting for a rate limit.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';

/** The result of a request. `expected`: a 304, or a problem that the demo provoked. */
export type Outcome = 'ok' | 'expected' | 'limited' | 'failed';

export interface RequestRecord {
  readonly operation: string;
  readonly milliseconds: number;
  readonly outcome: Outcome;
  /** The problem's code, or what broke the connection. */
  readonly problem: string;
  /** The header Cache-Status. */
  readonly cacheStatus: string | null;
}

interface Row {
  requests: number;
  expected: number;
  failed: number;
  /** In microseconds. */
  readonly latency: RecordableHistogram;
}

const TOTAL = 'all';
const MAX_PRINTED_VIOLATIONS = 10;
const HEADINGS = [
  'operation',
  'requests',
  'failed',
  '304/409',
  'p50 ms',
  'p95 ms',
  'p99 ms',
  'max ms',
];
const COLUMN_WIDTHS = [22, 9, 8, 8, 9, 9, 9, 9];

export class Meter {
  private readonly rows = new Map<string, Row>();
  /** `<operation>: <problem>` → how often. */
  private readonly failures = new Map<string, number>();
  /** Cache-Status → how often. */
  private readonly cacheStatuses = new Map<string, number>();
  private readonly staleReads: string[] = [];
  private checkedReads = 0;
  private readonly brokenReplays: string[] = [];
  private replays = 0;
  private endedTokens = 0;
  private acceptedEndedTokens = 0;
  private limitedRequests = 0;

  recordRequest(record: RequestRecord): void {
    const { operation, outcome, problem, cacheStatus } = record;
    if (cacheStatus) increment(this.cacheStatuses, cacheStatus.replace(/^holdfast; /, ''));
    this.addTo(operation, record);
    this.addTo(TOTAL, record);
    if (outcome === 'limited') this.limitedRequests++;
    if (outcome === 'failed') increment(this.failures, `${operation}: ${problem}`);
  }

  /** @param violation how the read was older than what its user knew; undefined when it was not */
  recordCheckedRead(violation: string | undefined): void {
    this.checkedReads++;
    if (violation !== undefined) this.staleReads.push(violation);
  }

  /** @param violation how the retry differed from the first response; undefined when it did not */
  recordReplay(violation: string | undefined): void {
    this.replays++;
    if (violation !== undefined) this.brokenReplays.push(violation);
  }

  recordEndedToken({ isAccepted }: { isAccepted: boolean }): void {
    this.endedTokens++;
    if (isAccepted) this.acceptedEndedTokens++;
  }

  get requestCount(): number {
    return this.rows.get(TOTAL)?.requests ?? 0;
  }

  get staleReadCount(): number {
    return this.staleReads.length;
  }

  /** In percent, of the reads that did not ask for the primary database. */
  get hitRatio(): string {
    const cachedReads = [...this.cacheStatuses].filter(([status]) => status !== 'fwd=request');
    const total = cachedReads.reduce((sum, [, count]) => sum + count, 0);
    return percentOf(this.cacheStatuses.get('hit') ?? 0, total);
  }

  /** Whether every promise was kept and no request failed. */
  get isClean(): boolean {
    const violations =
      this.staleReads.length + this.brokenReplays.length + this.acceptedEndedTokens;
    return violations === 0 && this.failures.size === 0;
  }

  /** @param seconds how long the users were active */
  summarize(seconds: number): string {
    const requests = format(this.requestCount);
    const perSecond = format(Math.round(this.requestCount / seconds));
    const cacheStatuses = listCounts(this.cacheStatuses) || 'no cached read';
    const violations = [...this.staleReads, ...this.brokenReplays];
    return [
      toLine(HEADINGS),
      ...this.rowLines(),
      '',
      `Requests     ${requests} in ${seconds.toFixed(0)} s, ${perSecond} a second`,
      `Failures     ${listCounts(this.failures) || 'none'}`,
      `Cache        hit ratio ${this.hitRatio} (${cacheStatuses})`,
      this.consistencyLine(),
      ...violations.slice(0, MAX_PRINTED_VIOLATIONS).map((text) => `             ! ${text}`),
      ...this.limitLines(),
    ].join('\n');
  }

  private addTo(name: string, { milliseconds, outcome }: RequestRecord): void {
    const row = this.rows.get(name) ?? {
      requests: 0,
      expected: 0,
      failed: 0,
      latency: createHistogram(),
    };
    this.rows.set(name, row);
    row.requests++;
    if (outcome === 'expected') row.expected++;
    if (outcome === 'failed') row.failed++;
    row.latency.record(Math.max(1, Math.round(milliseconds * 1000)));
  }

  /** A line for each operation, the most frequent first, and the total last. */
  private rowLines(): string[] {
    const operations = [...this.rows].filter(([name]) => name !== TOTAL);
    operations.sort(([, a], [, b]) => b.requests - a.requests);
    const total = this.rows.get(TOTAL);
    const rows: [string, Row][] = total ? [...operations, [TOTAL, total]] : operations;
    return rows.map(([name, { requests, failed, expected, latency }]) => {
      const times = [
        latency.percentile(50),
        latency.percentile(95),
        latency.percentile(99),
        latency.max,
      ];
      const milliseconds = times.map((microseconds) => (microseconds / 1000).toFixed(1));
      return toLine([name, format(requests), format(failed), format(expected), ...milliseconds]);
    });
  }

  private consistencyLine(): string {
    const ofAll = (part: number, all: number): string => `${format(part)} of ${format(all)}`;
    const stale = ofAll(this.staleReads.length, this.checkedReads);
    const accepted = ofAll(this.acceptedEndedTokens, this.endedTokens);
    const different = ofAll(this.brokenReplays.length, this.replays);
    return (
      `Consistency  ${stale} checked reads stale; ${accepted} ended tokens accepted; ` +
      `${different} idempotent retries differed`
    );
  }

  private limitLines(): string[] {
    if (this.limitedRequests === 0) return [];
    const count = format(this.limitedRequests);
    return [`Limits       ${count} requests got a 429; each waited and was sent again`];
  }
}

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** The first cell is aligned to the left, the others to the right. */
const toLine = ([first = '', ...others]: readonly string[]): string => {
  const [firstWidth = 0, ...widths] = COLUMN_WIDTHS;
  const aligned = others.map((cell, index) => cell.padStart(widths[index] ?? 0));
  return [first.padEnd(firstWidth), ...aligned].join('');
};

/** `1 234 567` */
const format = (value: number): string => value.toLocaleString('en').replaceAll(',', ' ');

const percentOf = (part: number, whole: number): string =>
  whole === 0 ? '- %' : `${((100 * part) / whole).toFixed(1)} %`;

const listCounts = (counts: ReadonlyMap<string, number>): string =>
  [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} ${format(count)}`)
    .join(', ');
