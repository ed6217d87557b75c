/** GuardedStore: when the circuit breaker opens and closes, and which reads share a command. */
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import {
  type CacheEntry,
  type CacheStore,
  CacheUnavailableError,
  PartiallyUnavailableError,
} from '../../../../src/platform/cache/store/cache-store.js';
import { GuardedStore } from '../../../../src/platform/cache/store/guarded-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { eventually } from '../../../support/eventually.js';
import { Gate } from '../../../support/gate.js';

/** Longer than an open breaker waits before it lets a ping through. */
const PROBE_DELAY_MS = 500;

/** A store that records its commands and fails when the test says so. */
class RecordingStore extends MemoryStore {
  readonly commands: string[] = [];
  error: Error | undefined;

  override async get(keys: readonly string[]): Promise<CacheEntry[]> {
    this.record(`get ${keys.join()}`);
    return super.get(keys);
  }

  override async fence(...args: Parameters<CacheStore['fence']>): Promise<void> {
    this.record('fence');
    return super.fence(...args);
  }

  override async ping(): Promise<void> {
    this.record('ping');
  }

  private record(command: string): void {
    this.commands.push(command);
    if (this.error) throw this.error;
  }
}

let nowMs: number;
let inner: RecordingStore;
let states: boolean[];
let store: GuardedStore;

beforeEach(() => {
  nowMs = 0;
  jest.spyOn(Date, 'now').mockImplementation(() => nowMs);
  inner = new RecordingStore();
  states = [];
  store = new GuardedStore(inner, (isAvailable) => states.push(isAvailable));
});
afterEach(() => {
  jest.restoreAllMocks();
});

async function failThreeTimes(error: Error): Promise<void> {
  inner.error = error;
  for (let attempt = 0; attempt < 3; attempt++) {
    await expect(store.fence(['k'], 't', 1)).rejects.toThrow(error);
  }
}

describe('the circuit breaker', () => {
  it('the store is unavailable three times in a row → requests do not reach it', async () => {
    await failThreeTimes(new CacheUnavailableError('gone'));
    expect([store.isBreakerOpen, store.isAvailable, states]).toEqual([true, false, [false]]);
    inner.commands.length = 0;
    inner.error = undefined;
    await expect(store.get(['k'])).rejects.toThrow(CacheUnavailableError);
    await expect(store.fence(['k'], 't', 1)).rejects.toThrow(CacheUnavailableError);
    expect(inner.commands).toEqual([]);
  });

  it('the breaker is open → only a ping after the delay probes the store', async () => {
    await failThreeTimes(new CacheUnavailableError('gone'));
    inner.error = undefined;
    inner.commands.length = 0;
    await expect(store.ping()).rejects.toThrow(CacheUnavailableError);
    nowMs += PROBE_DELAY_MS;
    await expect(store.fence(['k'], 't', 1)).rejects.toThrow(CacheUnavailableError);
    expect(inner.commands).toEqual([]);
    await store.ping();
    expect(inner.commands).toEqual(['ping']);
    expect([store.isBreakerOpen, store.isAvailable, states]).toEqual([false, true, [false, true]]);
  });

  it('the probe fails → the breaker stays open', async () => {
    await failThreeTimes(new CacheUnavailableError('gone'));
    nowMs += PROBE_DELAY_MS;
    await expect(store.ping()).rejects.toThrow('gone');
    expect(store.isBreakerOpen).toBe(true);
  });

  it.each([
    ['a part of the store is unavailable', new PartiallyUnavailableError('partly gone', ['k'])],
    ['a caller makes a mistake', new RangeError('no version')],
  ])('%s → the breaker stays closed', async (_, error) => {
    await failThreeTimes(error);
    expect([store.isBreakerOpen, states]).toEqual([false, []]);
  });
});

describe('reads in one turn of the event loop', () => {
  it('several callers share one command, and each gets the entries of its own keys', async () => {
    await inner.lease(['b'], 't', 60_000);
    const [first, second] = await Promise.all([store.get(['a', 'b']), store.get(['b', 'c', 'b'])]);
    expect(inner.commands).toEqual(['get a,b,c']);
    expect(first.map(({ state }) => state)).toEqual(['absent', 'lease']);
    expect(second.map(({ state }) => state)).toEqual(['lease', 'absent', 'lease']);
  });

  it('a caller of a later turn does not join a command that was sent', async () => {
    await store.get(['a']);
    await store.get(['a']);
    expect(inner.commands).toEqual(['get a', 'get a']);
  });

  it('a caller does not join a command that has no answer yet', async () => {
    const mayAnswer = new Gate();
    const get = inner.get.bind(inner);
    inner.get = async (keys) => {
      const entries = await get(keys);
      await mayAnswer.opened;
      return entries;
    };
    const first = store.get(['a']);
    await eventually('the command is sent', () => inner.commands.length === 1);
    const second = store.get(['a']);
    await eventually('the next command is sent', () => inner.commands.length === 2);
    mayAnswer.open();
    expect(await second).toEqual(await first);
  });

  it('more keys than one command may have go into another command', async () => {
    const createKeys = (prefix: string): string[] =>
      Array.from({ length: 500 }, (_, index) => `${prefix}${index}`);
    await Promise.all([store.get(createKeys('a')), store.get(createKeys('b'))]);
    expect(inner.commands).toHaveLength(2);
  });

  it('on a sharded store each caller sends its own command', async () => {
    const sharded = new GuardedStore(Object.assign(inner, { isSharded: true }), () => undefined);
    await Promise.all([sharded.get(['a']), sharded.get(['b'])]);
    expect(inner.commands).toEqual(['get a', 'get b']);
  });
});
