/**
 * What the demo saw: requests, failures and latencies by operation, how the cache answered, and whether any answer broke a
 * promise. Latencies are the client's own, from before the request to the end of the body; waiting to keep a limit is no part.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';

/** What a request came to. `expected`: a 304 or a refusal that is part of the scenario. */
export type Outcome = 'ok' | 'expected' | 'limited' | 'failed';

interface Row {
  requests: number;
  expected: number;
  failed: number;
  readonly latency: RecordableHistogram;
}

const WIDTHS = [22, 9, 8, 8, 9, 9, 9, 9];
const line = (cells: readonly string[]): string =>
  cells
    .map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[i] ?? 0) : cell.padStart(WIDTHS[i] ?? 0)))
    .join('');
const count = (value: number): string => value.toLocaleString('en').replaceAll(',', ' ');
const percent = (part: number, whole: number): string =>
  `${whole === 0 ? '-' : ((100 * part) / whole).toFixed(1)} %`;

export class Meter {
  private readonly rows = new Map<string, Row>();
  private readonly problems = new Map<string, number>();
  private readonly cache = new Map<string, number>();
  private checked = 0;
  private readonly stale: string[] = [];
  private readonly broken: string[] = [];
  private deadTried = 0;
  private deadAccepted = 0;
  private limited = 0;
  private replays = 0;

  /** @param problem the problem's code, or what the connection died of */
  record(
    operation: string,
    milliseconds: number,
    outcome: Outcome,
    problem: string,
    cacheStatus: string | null,
  ): void {
    if (cacheStatus) {
      const how = cacheStatus.replace(/^holdfast; /, '');
      this.cache.set(how, (this.cache.get(how) ?? 0) + 1);
    }
    for (const name of [operation, 'all']) {
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
    if (outcome === 'limited') this.limited++;
    if (outcome !== 'failed') return;
    const what = `${operation}: ${problem}`;
    this.problems.set(what, (this.problems.get(what) ?? 0) + 1);
  }

  /** A read was checked against what this user already knew; `fault` says how it was older. */
  read(fault: string | undefined): void {
    this.checked++;
    if (fault !== undefined) this.stale.push(fault);
  }

  /** A retry with the same key was checked to be the same answer. */
  replay(fault: string | undefined): void {
    this.replays++;
    if (fault !== undefined) this.broken.push(fault);
  }

  deadToken(accepted: boolean): void {
    this.deadTried++;
    if (accepted) this.deadAccepted++;
  }

  get requests(): number {
    return this.rows.get('all')?.requests ?? 0;
  }

  get staleReads(): number {
    return this.stale.length;
  }

  /** Of the reads that did not ask for the primary. */
  get hitRatio(): string {
    const total = [...this.cache].reduce(
      (sum, [how, n]) => (how === 'fwd=request' ? sum : sum + n),
      0,
    );
    return percent(this.cache.get('hit') ?? 0, total);
  }

  /** Whether every promise was kept and nothing failed. */
  get isClean(): boolean {
    return this.stale.length + this.broken.length + this.deadAccepted + this.problems.size === 0;
  }

  /** @param seconds how long the users were at it */
  summary(seconds: number): string {
    const lines = [
      line(['operation', 'requests', 'failed', '304/409', 'p50 ms', 'p95 ms', 'p99 ms', 'max ms']),
    ];
    const [all, ...rest] = [...this.rows].sort(([a, x], [b, y]) => order(b, y) - order(a, x));
    for (const [name, { requests, failed, expected, latency }] of [
      ...rest,
      ...(all ? [all] : []),
    ]) {
      const at = (microseconds: number): string => (microseconds / 1000).toFixed(1);
      const times = [
        latency.percentile(50),
        latency.percentile(95),
        latency.percentile(99),
        latency.max,
      ].map(at);
      lines.push(line([name, count(requests), count(failed), count(expected), ...times]));
    }
    lines.push(
      '',
      `Requests     ${count(this.requests)} in ${seconds.toFixed(0)} s, ${count(Math.round(this.requests / seconds))} a second`,
    );
    lines.push(`Failures     ${list(this.problems) || 'none'}`);
    lines.push(`Cache        hit ratio ${this.hitRatio} (${list(this.cache) || 'no cached read'})`);
    lines.push(
      `Consistency  ${count(this.stale.length)} stale of ${count(this.checked)} checked reads; ` +
        `${count(this.deadAccepted)} of ${count(this.deadTried)} ended tokens still accepted; ` +
        `${count(this.broken.length)} of ${count(this.replays)} idempotent retries answered otherwise`,
    );
    for (const fault of [...this.stale, ...this.broken].slice(0, 10))
      lines.push(`             ! ${fault}`);
    if (this.limited > 0)
      lines.push(
        `Limits       ${count(this.limited)} requests got a 429, waited and were sent again`,
      );
    return lines.join('\n');
  }
}

const order = (name: string, { requests }: Row): number => (name === 'all' ? Infinity : requests);

const list = (counts: ReadonlyMap<string, number>): string =>
  [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => `${name} ${count(n)}`)
    .join(', ');
