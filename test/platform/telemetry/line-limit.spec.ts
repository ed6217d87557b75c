/** A flood of events becomes a bounded number of log lines, and a count of the rest. */
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import {
  FURTHER_GROUPS,
  LineLimit,
  MAX_GROUPS_PER_SECOND,
  MAX_LINES_PER_SECOND,
} from '../../../src/platform/telemetry/line-limit.js';

describe('the line limit', () => {
  let reports: [event: string, group: string, suppressed: number][];
  let limit: LineLimit;

  beforeEach(() => {
    jest.useFakeTimers();
    reports = [];
    limit = new LineLimit((...report) => reports.push(report));
  });
  afterEach(() => void jest.useRealTimers());

  /** @returns how many of the lines may be written */
  const write = (event: string, lines: number, group = 'a'): number =>
    Array.from({ length: lines }, () => limit.allows(event, group)).filter(Boolean).length;

  it('lets a bounded number of lines of one event pass in a second', () => {
    expect(write('flood', 3 * MAX_LINES_PER_SECOND)).toBe(MAX_LINES_PER_SECOND);
  });

  it('reports at the end of the second how many lines it suppressed', () => {
    write('flood', MAX_LINES_PER_SECOND + 7);
    expect(reports).toEqual([]);

    jest.advanceTimersByTime(1_000);

    expect(reports).toEqual([['flood', 'a', 7]]);
  });

  it('reports nothing when every line passed', () => {
    write('quiet', MAX_LINES_PER_SECOND);

    jest.advanceTimersByTime(1_000);

    expect(reports).toEqual([]);
  });

  it('lets lines pass again in the next second', () => {
    write('flood', MAX_LINES_PER_SECOND + 1);
    jest.advanceTimersByTime(1_000);

    expect(write('flood', 1)).toBe(1);
  });

  it('counts each event apart, so that a flood of one does not hide another', () => {
    write('flood', 3 * MAX_LINES_PER_SECOND);

    expect(write('rare', 1)).toBe(1);
  });

  it('reports at once when the service shuts down within the second', () => {
    write('flood', MAX_LINES_PER_SECOND + 7);

    limit.endWindow();
    jest.advanceTimersByTime(1_000);

    expect(reports).toEqual([['flood', 'a', 7]]);
  });

  it('reports each group apart', () => {
    write('flood', MAX_LINES_PER_SECOND + 7, 'a');
    write('flood', 5, 'b');

    limit.endWindow();

    expect(reports).toEqual([
      ['flood', 'a', 7],
      ['flood', 'b', 5],
    ]);
  });

  it('counts every line once, and reports a bounded number of groups', () => {
    const groups = 3 * MAX_GROUPS_PER_SECOND;
    let passed = 0;
    for (let group = 0; group < groups; group++) passed += write('flood', 2, `group ${group}`);

    limit.endWindow();

    const suppressed = reports.reduce((sum, [, , count]) => sum + count, 0);
    expect(passed + suppressed).toBe(2 * groups);
    expect(reports).toHaveLength(MAX_GROUPS_PER_SECOND + 1);
    expect(reports.at(-1)?.[1]).toBe(FURTHER_GROUPS);
  });
});
