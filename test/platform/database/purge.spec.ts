/** A purge removes rows in batches, on a timer that the tests move by hand. */
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { PeriodicPurge } from '../../../src/platform/database/purge.js';

const INTERVAL_MS = 60_000;
const MAX_BATCHES = 3;
const BATCH_SIZE = 10;

describe('a periodic purge', () => {
  /** Rows that wait to be removed. */
  let rows: number;
  let batches: number;
  let warnings: string[];
  /** Called before each batch. */
  let beforeBatch: () => Promise<void> | void;
  let purge: PeriodicPurge;

  beforeEach(() => {
    jest.useFakeTimers();
    rows = 0;
    batches = 0;
    warnings = [];
    beforeBatch = () => undefined;
    purge = new PeriodicPurge({
      what: 'expired rows',
      intervalMs: INTERVAL_MS,
      maxBatches: MAX_BATCHES,
      removeBatch: async () => {
        batches++;
        await beforeBatch();
        const removed = Math.min(rows, BATCH_SIZE);
        rows -= removed;
        return removed === BATCH_SIZE;
      },
      logger: { warn: (line: string) => void warnings.push(line) },
    });
  });
  afterEach(async () => {
    await purge.stop();
    jest.useRealTimers();
  });

  const pass = (ms: number): Promise<void> => jest.advanceTimersByTimeAsync(ms);

  it('removes nothing at the start of the process', async () => {
    rows = 5;
    purge.start();

    await pass(INTERVAL_MS - 1);

    expect(rows).toBe(5);
  });

  it('removes rows once an interval', async () => {
    purge.start();
    rows = 5;
    await pass(INTERVAL_MS);
    expect(rows).toBe(0);

    rows = 7;
    await pass(INTERVAL_MS);
    expect(rows).toBe(0);
  });

  it('removes batches until one is not full', async () => {
    rows = 2 * BATCH_SIZE + 1;

    await purge.purge();

    expect([rows, batches]).toEqual([0, 3]);
  });

  it('removes a bounded number of batches, and the others at the next interval', async () => {
    rows = MAX_BATCHES * BATCH_SIZE + 1;
    purge.start();

    await pass(INTERVAL_MS);
    expect([rows, batches]).toEqual([1, MAX_BATCHES]);

    await pass(INTERVAL_MS);
    expect([rows, batches]).toEqual([0, MAX_BATCHES + 1]);
  });

  it('logs what it could not remove, and tries again', async () => {
    rows = 5;
    beforeBatch = () => {
      throw new Error('connection lost');
    };
    purge.start();
    await pass(INTERVAL_MS);
    expect(warnings).toEqual(['Could not purge expired rows: Error: connection lost']);

    beforeBatch = () => undefined;
    await pass(INTERVAL_MS);
    expect(rows).toBe(0);
  });

  it('begins no batch after it was stopped, and waits for the running one', async () => {
    rows = MAX_BATCHES * BATCH_SIZE;
    let finishBatch = (): void => undefined;
    beforeBatch = () =>
      new Promise<void>((resolve) => {
        finishBatch = resolve;
      });
    purge.start();
    await pass(INTERVAL_MS);

    let isStopped = false;
    const stopping = purge.stop().then(() => {
      isStopped = true;
    });
    await pass(INTERVAL_MS);
    expect(isStopped).toBe(false);

    finishBatch();
    await stopping;
    expect([rows, batches]).toEqual([(MAX_BATCHES - 1) * BATCH_SIZE, 1]);
  });
});
