/** Lifetimes of cache entries. */
import { expect, it } from '@jest/globals';
import { jitter } from '../../../../src/platform/cache/read/key-loader.js';

it('jitter spreads a lifetime by a tenth in each direction', () => {
  const lifetimes = [0, 0.5, 0.999999].map((random) => jitter(1_000, () => random));
  expect(lifetimes).toEqual([900, 1_000, 1_100]);
});
