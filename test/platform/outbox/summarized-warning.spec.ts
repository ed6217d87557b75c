/** One line a minute for what may happen to every event. */
import { afterEach, beforeEach, expect, it, jest } from '@jest/globals';
import { SummarizedWarning } from '../../../src/platform/outbox/summarized-warning.js';

let lines: string[];

beforeEach(() => {
  jest.useFakeTimers();
  lines = [];
});

afterEach(() => {
  jest.useRealTimers();
});

it('a warning is logged at once, then at most once a minute with the count', () => {
  const warning = new SummarizedWarning({ warn: (line: string) => lines.push(line) });

  warning.add('first');
  warning.add('second');
  jest.advanceTimersByTime(59_999);
  warning.add('third');
  jest.advanceTimersByTime(1);
  warning.add('fourth');

  expect(lines).toEqual(['first', 'fourth (3 times since the last such line)']);
});
