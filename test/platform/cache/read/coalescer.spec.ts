/** Single-flight that stays linearizable: who joins which load. */
import { describe, expect, it } from '@jest/globals';
import { Coalescer } from '../../../../src/platform/cache/read/coalescer.js';

/** Records each load and lets the test end it. */
class ControlledLoads {
  readonly batches: string[][] = [];
  private readonly ends: ((results: string[]) => void)[] = [];
  private readonly failures: ((error: Error) => void)[] = [];

  readonly load = (keys: string[]): Promise<string[]> => {
    this.batches.push(keys);
    return new Promise((resolve, reject) => {
      this.ends.push(resolve);
      this.failures.push(reject);
    });
  };

  /** Ends a load. Its result for each key is `<key> of load <index>`. */
  async end(index: number): Promise<void> {
    const keys = this.batches[index] as string[];
    this.ends[index]?.(keys.map((key) => `${key} of load ${index}`));
    await turnOfEventLoop();
  }

  async fail(index: number): Promise<void> {
    this.failures[index]?.(new Error(`load ${index} failed`));
    await turnOfEventLoop();
  }
}

const turnOfEventLoop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Coalescer', () => {
  it('keys that are asked for in one turn of the event loop are loaded together', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load);
    const results = Promise.all(['a', 'b', 'a'].map((key) => coalescer.get(key)));
    await turnOfEventLoop();
    expect(loads.batches).toEqual([['a', 'b']]);
    await loads.end(0);
    expect(await results).toEqual(['a of load 0', 'b of load 0', 'a of load 0']);
  });

  it('a caller does not join a load that has begun: it gets the next one', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load);
    const early = coalescer.get('a');
    await turnOfEventLoop();
    const late = coalescer.get('a');
    await turnOfEventLoop();
    expect(loads.batches).toEqual([['a']]);
    await loads.end(0);
    expect(await early).toBe('a of load 0');
    expect(loads.batches).toEqual([['a'], ['a']]);
    await loads.end(1);
    expect(await late).toBe('a of load 1');
  });

  it('one load runs and one is queued, however many callers come', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load);
    const first = coalescer.get('a');
    await turnOfEventLoop();
    const others: Promise<string>[] = [];
    for (let turn = 0; turn < 10; turn++) {
      others.push(coalescer.get('a'), coalescer.get('a'));
      await turnOfEventLoop();
    }
    await loads.end(0);
    await loads.end(1);
    expect(await first).toBe('a of load 0');
    expect(new Set(await Promise.all(others))).toEqual(new Set(['a of load 1']));
    expect(loads.batches).toHaveLength(2);
  });

  it('a key does not wait for the load of another key', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load);
    void coalescer.get('a');
    await turnOfEventLoop();
    const other = coalescer.get('b');
    await turnOfEventLoop();
    expect(loads.batches).toEqual([['a'], ['b']]);
    await loads.end(1);
    expect(await other).toBe('b of load 1');
  });

  it('a full batch is loaded at once', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load, 2);
    void ['a', 'b', 'c'].map((key) => coalescer.get(key));
    await turnOfEventLoop();
    expect(loads.batches).toEqual([['a', 'b'], ['c']]);
  });

  it('a load fails → its callers are rejected, those that came later are not', async () => {
    const loads = new ControlledLoads();
    const coalescer = new Coalescer(loads.load);
    const early = coalescer.get('a');
    await turnOfEventLoop();
    const late = coalescer.get('a');
    const rejection = expect(early).rejects.toThrow('load 0 failed');
    await loads.fail(0);
    await rejection;
    await loads.end(1);
    expect(await late).toBe('a of load 1');
  });
});
