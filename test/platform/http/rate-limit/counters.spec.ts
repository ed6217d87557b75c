/**
 * Counters in a process: their memory is bounded. Counting on several nodes: rate-limit.spec.ts.
 */
import { expect, it } from '@jest/globals';
import { createCounter, MAX_KEYS } from '../../../../src/platform/http/rate-limit/counters.js';

it('a counter keeps a bounded number of keys in a process, the most recent ones', async () => {
  const counter = createCounter(undefined, { keyPrefix: 'test', points: 1, duration: 60 });
  await counter.consume('oldest');
  for (let key = 0; key < MAX_KEYS; key++) await counter.consume(String(key));
  expect(await counter.get('oldest')).toBeNull();
  expect(await counter.get('0')).not.toBeNull();
  expect(await counter.get(String(MAX_KEYS - 1))).not.toBeNull();
});
