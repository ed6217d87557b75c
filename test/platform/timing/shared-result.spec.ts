/** How often shared work is done, and who gets which result. */
import { describe, expect, it } from '@jest/globals';
import { SharedResult } from '../../../src/platform/timing/shared-result.js';
import { Gate } from '../../support/gate.js';

const LONG_MS = 60_000;

describe('a shared result', () => {
  /** Work that ends when its gate opens, with the number of its run. */
  function countedWork(maxAgeMs: number) {
    const gates: Gate[] = [];
    const shared = new SharedResult(async () => {
      const gate = new Gate();
      const number = gates.push(gate);
      await gate.opened;
      return number;
    }, maxAgeMs);
    return { shared, gates };
  }

  it('is the one of the work that runs already', async () => {
    const { shared, gates } = countedWork(0);
    const results = [shared.get(), shared.get(), shared.get()];
    gates[0]?.open();
    expect(await Promise.all(results)).toEqual([1, 1, 1]);
  });

  it('is a new one when the work has ended and may not be older', async () => {
    const { shared, gates } = countedWork(0);
    const first = shared.get();
    gates[0]?.open();
    await first;
    const second = shared.get();
    gates[1]?.open();
    expect(await second).toBe(2);
  });

  it('is the last one as long as it may be that old', async () => {
    const { shared, gates } = countedWork(LONG_MS);
    const first = shared.get();
    gates[0]?.open();
    await first;
    expect(await shared.get()).toBe(1);
  });

  it('of work that failed goes to all who share it, and not to those who come later', async () => {
    let runs = 0;
    const shared = new SharedResult(async () => {
      runs++;
      await Promise.resolve();
      if (runs === 1) throw new Error('the first run fails');
      return runs;
    }, 0);
    const results = await Promise.allSettled([shared.get(), shared.get()]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(await shared.get()).toBe(2);
  });
});
