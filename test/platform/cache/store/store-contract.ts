/**
 * What every CacheStore must do, whatever it is made of: each state of a key under each step, then the behaviours that the
 * protocol's proofs rest on. A store that passes may carry the strict cache.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { type CacheEntry, type CacheStore, type CacheText } from '../../src/cache/cache.store.js';

/** A store under test, and the hands on its clock and its memory. */
export interface StoreHarness {
  readonly store: CacheStore;
  /** Lets at least `ms` pass by the store's clock. */
  wait(ms: number): Promise<void>;
  /** Loses every entry at once, as a flush does. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

const LONG = 60_000;
const SHORT = 25;
const PAST_SHORT = 40;

/** Registers the suite; `makeStore` is called once for it. */
export function storeContract(name: string, makeStore: () => Promise<StoreHarness>): void {
  describe(`${name} keeps the store's contract`, () => {
    let harness: StoreHarness;
    let store: CacheStore;
    let key = '';
    let count = 0;

    beforeAll(async () => {
      harness = await makeStore();
      store = harness.store;
    });
    afterAll(() => harness.close());
    beforeEach(() => {
      key = `contract:${++count}`;
    });

    const seen = async (): Promise<string> => show((await store.get([key]))[0]!);
    const value = (version: number, payload: string | null = 'new', ttlMs = LONG) => ({
      key,
      version,
      payload,
      ttlMs,
    });
    const seed = async (version: number, payload: string | null): Promise<void> => {
      await store.lease([key], 'seed', LONG);
      expect(await store.fill('seed', [value(version, payload)])).toEqual([true]);
    };

    describe('each state under each step', () => {
      const states: Record<string, () => Promise<unknown>> = {
        absent: async () => undefined,
        'my lease': () => store.lease([key], 'me', LONG),
        "another's lease": () => store.lease([key], 'other', LONG),
        'value 5': () => seed(5, 'old'),
        'none 5': () => seed(5, null),
        'my fence over 5': () => seed(5, 'old').then(() => store.fence([key], 'me', LONG)),
        "another's fence over 5": () =>
          seed(5, 'old').then(() => store.fence([key], 'other', LONG)),
        'both fences over 5': async () => {
          await seed(5, 'old');
          await store.fence([key], 'me', LONG);
          await store.fence([key], 'other', LONG);
        },
      };
      const steps: Record<string, () => Promise<unknown>> = {
        get: () => store.get([key]),
        lease: () => store.lease([key], 'me', LONG),
        'fill 7': () => store.fill('me', [value(7)]),
        fence: () => store.fence([key], 'me', LONG),
        'publish 7': () => store.publish('me', [value(7)]),
        'publish 5': () => store.publish('me', [value(5)]),
        'publish 3': () => store.publish('me', [value(3)]),
        'publish none 7': () => store.publish('me', [value(7, null)]),
        'publish absent': () => store.publish('me', [{ key, absent: true }]),
        unfence: () => store.unfence([key], 'me'),
        'replace old@5': () =>
          store.replace([
            { key, seen: { version: 5, payload: 'old' }, version: 6, payload: 'new' },
          ]),
      };
      const outcomes: Record<string, string[]> = {
        //                          get, lease, fill 7, fence, publish 7, 5, 3, none 7, absent, unfence, replace
        absent: 'absent lease absent fence absent absent absent absent absent absent absent'.split(
          ' ',
        ),
        'my lease': 'lease lease new@7 fence absent absent absent absent absent lease lease'.split(
          ' ',
        ),
        "another's lease":
          'lease lease lease fence absent absent absent absent absent lease lease'.split(' '),
        'value 5': 'old@5 old@5 old@5 fence new@7 old@5 old@5 none@7 absent old@5 new@6'.split(' '),
        'none 5':
          'none@5 none@5 none@5 fence absent none@5 none@5 absent absent none@5 none@5'.split(' '),
        'my fence over 5':
          'fence fence fence fence new@7 new@5 absent none@7 absent absent fence'.split(' '),
        "another's fence over 5":
          'fence fence fence fence fence fence fence fence fence fence fence'.split(' '),
        'both fences over 5':
          'fence fence fence fence fence fence fence fence fence fence fence'.split(' '),
      };
      const cases = Object.entries(outcomes).flatMap(([state, row]) =>
        Object.keys(steps).map((step, i) => [state, step, row[i]!] as const),
      );

      it.each(cases)('%s, %s → %s', async (state, step, outcome) => {
        await states[state]!();
        await steps[step]!();
        expect(await seen()).toBe(outcome);
      });
    });

    describe('leases', () => {
      it('go to one of two readers', async () => {
        expect((await store.lease([key], 'me', LONG)).map(show)).toEqual(['absent']);
        expect((await store.lease([key], 'other', LONG)).map(show)).toEqual(['lease']);
      });

      it('return a hit instead of being taken', async () => {
        await seed(5, 'old');
        expect((await store.lease([key], 'me', LONG)).map(show)).toEqual(['old@5']);
      });

      it('run out, and then another reader may fill', async () => {
        await store.lease([key], 'me', SHORT);
        await harness.wait(PAST_SHORT);
        expect((await store.lease([key], 'other', LONG)).map(show)).toEqual(['absent']);
        expect(await store.fill('me', [value(5)])).toEqual([false]);
        expect(await store.fill('other', [value(6)])).toEqual([true]);
        expect(await seen()).toBe('new@6');
      });

      it('do not fill twice', async () => {
        await store.lease([key], 'me', LONG);
        expect(await store.fill('me', [value(5)])).toEqual([true]);
        expect(await store.fill('me', [value(9)])).toEqual([false]);
        expect(await seen()).toBe('new@5');
      });

      it('killed by a fence never fill, not even after the fence is gone', async () => {
        await store.lease([key], 'reader', LONG);
        await store.fence([key], 'writer', LONG);
        expect(await store.fill('reader', [value(5)])).toEqual([false]);
        await store.unfence([key], 'writer');
        expect(await store.fill('reader', [value(5)])).toEqual([false]);
        expect(await seen()).toBe('absent');
      });

      it('killed by a publication never fill', async () => {
        await store.lease([key], 'reader', LONG);
        await store.publish('writer', [value(6)]);
        expect(await store.fill('reader', [value(5)])).toEqual([false]);
        expect(await seen()).toBe('absent');
      });
    });

    describe('fences', () => {
      it('stay until the last of their writers has gone', async () => {
        await store.fence([key], 'a', LONG);
        await store.fence([key], 'b', LONG);
        await store.fence([key], 'c', LONG);
        await store.publish('b', [value(2)]);
        await store.unfence([key], 'c');
        expect(await seen()).toBe('fence');
        await store.publish('a', [value(3)]);
        expect(await seen()).toBe('new@3');
      });

      it('keep the greatest version published under them as the floor', async () => {
        await store.fence([key], 'first', LONG);
        await store.fence([key], 'second', LONG);
        await store.publish('second', [value(9)]);
        await store.publish('first', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('keep the version of the value that they destroyed as the floor', async () => {
        await seed(9, 'old');
        await store.fence([key], 'late', LONG);
        await store.publish('late', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('keep the version of the negative entry that they destroyed as the floor', async () => {
        await seed(9, null);
        await store.fence([key], 'late', LONG);
        await store.publish('late', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('keep their floor when another writer joins and the first leaves', async () => {
        await seed(9, 'old');
        await store.fence([key], 'a', LONG);
        await store.fence([key], 'b', LONG);
        await store.unfence([key], 'a');
        await store.publish('b', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('let nothing be stored after a publication that leaves the key absent: nobody knows how new that was', async () => {
        await store.fence([key], 'a', LONG);
        await store.fence([key], 'b', LONG);
        await store.publish('a', [{ key, absent: true }]);
        expect(await seen()).toBe('fence');
        await store.publish('b', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('do not lower their floor for a late, older publication', async () => {
        await seed(9, 'old');
        await store.fence([key], 'a', LONG);
        await store.fence([key], 'b', LONG);
        await store.publish('a', [value(4)]);
        await store.publish('b', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('raise their floor for a publication whose own token is not among theirs', async () => {
        await store.fence([key], 'a', LONG);
        await store.publish('stranger', [value(9)]);
        await store.publish('a', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('end at their deadline, and the writer that comes after it stores nothing', async () => {
        await store.fence([key], 'crashed', SHORT);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('absent');
        await store.publish('crashed', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('drop a crashed writer at its deadline, and store nothing of the next: nobody knows what the first committed', async () => {
        await store.fence([key], 'crashed', SHORT);
        await store.fence([key], 'next', LONG);
        await harness.wait(PAST_SHORT);
        await store.publish('next', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('outlive the shorter of two deadlines, whichever came last', async () => {
        await store.fence([key], 'long', LONG);
        await store.fence([key], 'short', SHORT);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('fence');
      });

      it('take no value from a writer whose own token had expired, though others stay', async () => {
        await store.fence([key], 'slow', SHORT);
        await store.fence([key], 'other', LONG);
        await harness.wait(PAST_SHORT);
        await store.publish('slow', [value(9)]);
        expect(await seen()).toBe('fence');
        await store.publish('other', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('keep the later deadline when the same writer fences twice, and are lifted by one publication', async () => {
        await store.fence([key], 'me', LONG);
        await store.fence([key], 'me', SHORT);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('fence');
        await store.publish('me', [value(8)]);
        expect(await seen()).toBe('new@8');
      });

      it('are not lifted by a stranger that rolls back', async () => {
        await store.fence([key], 'a', LONG);
        await store.unfence([key], 'stranger');
        expect(await seen()).toBe('fence');
      });
    });

    describe('publications', () => {
      it('store nothing once a flush has taken their fence', async () => {
        await store.fence([key], 'me', LONG);
        await harness.flush();
        await store.publish('me', [value(8)]);
        expect(await seen()).toBe('absent');
      });

      it('kill the lease of a reader that came after a flush', async () => {
        await store.fence([key], 'me', LONG);
        await harness.flush();
        await store.lease([key], 'reader', LONG);
        await store.publish('me', [value(8)]);
        expect(await store.fill('reader', [value(7)])).toEqual([false]);
        expect(await seen()).toBe('absent');
      });

      it('replace what a reader filled after a flush, if that is older', async () => {
        await store.fence([key], 'me', LONG);
        await harness.flush();
        await seed(7, 'old');
        await store.publish('me', [value(8)]);
        expect(await seen()).toBe('new@8');
      });

      it('leave alone what a reader filled after a flush, if that is newer', async () => {
        await store.fence([key], 'me', LONG);
        await harness.flush();
        await seed(9, 'old');
        await store.publish('me', [value(8)]);
        expect(await seen()).toBe('old@9');
      });

      it('of the same writer a second time change nothing', async () => {
        await store.fence([key], 'me', LONG);
        await store.publish('me', [value(8)]);
        await store.publish('me', [value(8)]);
        expect(await seen()).toBe('new@8');
      });

      it('compare versions as numbers, up to the greatest safe integer', async () => {
        await seed(9, 'old');
        await store.publish('me', [value(10)]);
        expect(await seen()).toBe('new@10');
        await store.publish('me', [value(Number.MAX_SAFE_INTEGER)]);
        expect(await seen()).toBe(`new@${Number.MAX_SAFE_INTEGER}`);
      });

      it('mix values, negative entries and absences in one call', async () => {
        const [a, b, c] = [`${key}a`, `${key}b`, `${key}c`];
        await store.fence([a, b, c], 'me', LONG);
        await store.publish('me', [
          { key: a, version: 1, payload: 'x', ttlMs: LONG },
          { key: b, absent: true },
          { key: c, version: 2, payload: null, ttlMs: LONG },
        ]);
        expect((await store.get([a, b, c])).map(show)).toEqual(['x@1', 'absent', 'none@2']);
      });
    });

    describe('entries', () => {
      it('live for their time', async () => {
        await store.lease([key], 'me', LONG);
        await store.fill('me', [value(5, 'new', SHORT)]);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('absent');
      });

      it('published live for their time', async () => {
        await store.fence([key], 'me', LONG);
        await store.publish('me', [value(5, null, SHORT)]);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('absent');
      });

      it.each([
        ['empty', ''],
        ['with every kind of line end and zero', 'a\r\nb\nc\0d\t"\\'],
        ['of many scripts and planes', 'żółć 漢字 🦔 ﷽ e\u0301'],
        ['that looks like another state', 'F00000000000000000009'],
        ['of a megabyte', 'ż'.repeat(500_000)],
      ])('hold a payload %s', async (_, payload) => {
        await store.lease([key], 'me', LONG);
        await store.fill('me', [value(5, payload)]);
        expect(await store.get([key])).toEqual([{ state: 'value', version: 5, payload }]);
      });

      it.each([-1, 0.5, NaN, Number.MAX_SAFE_INTEGER + 1])(
        'refuse the version %d',
        async (version) => {
          await expect(store.fill('me', [value(version)])).rejects.toThrow(RangeError);
          await expect(store.publish('me', [value(version)])).rejects.toThrow(RangeError);
          const bad = { version, payload: 'x' };
          await expect(
            store.replace([{ key, seen: bad, version: 1, payload: 'x' }]),
          ).rejects.toThrow(RangeError);
          await expect(
            store.replace([{ key, seen: { version: 1, payload: 'x' }, ...bad }]),
          ).rejects.toThrow(RangeError);
        },
      );
    });

    describe('replacements', () => {
      const seen5 = { version: 5, payload: 'old' };
      const claimed = { version: 5, payload: 'old, claimed' };
      const by = (from: CacheText, to: CacheText, ttlMs?: number) =>
        store.replace([{ key, seen: from, ...to, ...(ttlMs === undefined ? {} : { ttlMs }) }]);

      it('are made of the very value that was seen, and of no other', async () => {
        await seed(5, 'old');
        expect(await by({ version: 5, payload: 'other' }, claimed)).toEqual([false]);
        expect(await by({ version: 4, payload: 'old' }, claimed)).toEqual([false]);
        expect(await seen()).toBe('old@5');
        expect(await by(seen5, claimed)).toEqual([true]);
        expect(await by(seen5, claimed)).toEqual([false]);
        expect(await seen()).toBe('old, claimed@5');
      });

      it('go to one of two refreshers', async () => {
        await seed(5, 'old');
        const both = [1, 2].map((who) => by(seen5, { version: 5, payload: `claimed by ${who}` }));
        expect((await Promise.all(both)).flat().filter(Boolean)).toHaveLength(1);
      });

      it('lose to a fence, a publication and a drop, for good', async () => {
        for (const writer of [
          () => store.fence([key], 'writer', LONG).then(() => store.unfence([key], 'writer')),
          () => store.publish('writer', [value(6)]),
          () => store.publish('writer', [{ key, absent: true }]),
        ]) {
          await store.publish('cleaner', [{ key, absent: true }]);
          await seed(5, 'old');
          await by(seen5, claimed);
          await writer();
          const after = await seen();
          expect(await by(claimed, { version: 7, payload: 'refreshed' }, LONG)).toEqual([false]);
          expect(await seen()).toBe(after);
        }
      });

      it('keep the life that was left, or are given one of their own', async () => {
        await store.lease([key], 'me', LONG);
        await store.fill('me', [value(5, 'old', SHORT)]);
        await by(seen5, claimed);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('absent');
        await store.lease([key], 'me', LONG);
        await store.fill('me', [value(5, 'old', SHORT)]);
        await by(seen5, { version: 6, payload: 'refreshed' }, LONG);
        await harness.wait(PAST_SHORT);
        expect(await seen()).toBe('refreshed@6');
      });
    });

    describe('many keys', () => {
      const some = (n: number): string[] => Array.from({ length: n }, (_, i) => `${key}:${i}`);

      it('are answered in the order asked, absent and doubled ones included', async () => {
        const [a, b, c] = some(3) as [string, string, string];
        await store.lease([a, b], 'me', LONG);
        expect(
          await store.fill('me', [
            { key: b, version: 2, payload: 'b', ttlMs: LONG },
            { key: c, version: 3, payload: 'c', ttlMs: LONG },
            { key: a, version: 1, payload: null, ttlMs: LONG },
          ]),
        ).toEqual([true, false, true]);
        expect((await store.get([c, b, a, b, b])).map(show)).toEqual([
          'absent',
          'b@2',
          'none@1',
          'b@2',
          'b@2',
        ]);
      });

      it('give one lease for a key asked for twice', async () => {
        const [a, b] = some(2) as [string, string];
        expect((await store.lease([a, b, a], 'me', LONG)).map(show)).toEqual([
          'absent',
          'absent',
          'lease',
        ]);
      });

      it('answer callers of the same tick each with their own', async () => {
        const keys = some(20);
        await store.fence(keys, 'me', LONG);
        await store.publish(
          'me',
          keys.map((it, version) => ({ key: it, version, payload: it, ttlMs: LONG })),
        );
        const answers = await Promise.all(
          keys.map((it, i) => store.get([it, keys[(i + 1) % 20]!])),
        );
        expect(answers.map((pair) => pair.map(show))).toEqual(
          keys.map((it, i) => [`${it}@${i}`, `${keys[(i + 1) % 20]}@${(i + 1) % 20}`]),
        );
      });

      it('may be none', async () => {
        expect(await store.get([])).toEqual([]);
        expect(await store.lease([], 'me', LONG)).toEqual([]);
        expect(await store.fill('me', [])).toEqual([]);
        expect(await store.replace([])).toEqual([]);
        await store.fence([], 'me', LONG);
        await store.publish('me', []);
        await store.unfence([], 'me');
      });

      it('may be a thousand', async () => {
        const keys = some(1_000);
        await store.lease(keys, 'me', LONG);
        await store.fill(
          'me',
          keys.map((it, version) => ({ key: it, version, payload: 'p', ttlMs: LONG })),
        );
        expect((await store.get(keys)).map(show)).toEqual(keys.map((_, i) => `p@${i}`));
      });
    });

    it('is available and answers a ping', async () => {
      expect(store.available).toBe(true);
      await store.ping();
    });
  });
}

/** An entry in a word: `absent`, `lease`, `fence`, `none@<version>` or `<payload>@<version>`. */
export function show(entry: CacheEntry): string {
  if (entry.state === 'value') return `${entry.payload}@${entry.version}`;
  return entry.state === 'none' ? `none@${entry.version}` : entry.state;
}
