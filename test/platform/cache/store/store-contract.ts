/**
 * What every CacheStore must do: each state of a key under each step, then the behaviours on which
 * the protocol's proofs rest. A store that passes may hold the strict cache.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type {
  CacheEntry,
  CacheStore,
  CacheText,
  CacheValue,
} from '../../../../src/platform/cache/store/cache-store.js';
import { eventually } from '../../../support/eventually.js';

/** A store under test, with access to its clock and its memory. */
export interface StoreHarness {
  readonly store: CacheStore;
  /** Lets at least `ms` milliseconds pass by the store's clock. */
  wait(ms: number): Promise<void>;
  /** Loses every entry at once. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

const LONG_MS = 60_000;
const SHORT_MS = 25;
const LONGER_THAN_SHORT_MS = 40;

/**
 * What a key in each state shows after each step, `<payload>@<version>` for an entry. The entries
 * in the states and under the fences have version 5 and payload `old`.
 */
const OUTCOMES = `
step            absent  own lease  other lease  value   none    own fence  other fence  both fences
get             absent  lease      lease        old@5   none@5  fence      fence        fence
lease           lease   lease      lease        old@5   none@5  fence      fence        fence
fill 7          absent  new@7      lease        old@5   none@5  fence      fence        fence
fence           fence   fence      fence        fence   fence   fence      fence        fence
publish 7       absent  absent     absent       new@7   absent  new@7      fence        fence
publish 5       absent  absent     absent       old@5   none@5  new@5      fence        fence
publish 3       absent  absent     absent       old@5   none@5  absent     fence        fence
publish none 7  absent  absent     absent       none@7  absent  none@7     fence        fence
publish absent  absent  absent     absent       absent  absent  absent     fence        fence
unfence         absent  lease      lease        old@5   none@5  absent     fence        fence
replace old@5   absent  lease      lease        new@6   none@5  fence      fence        fence
`;

type Case = readonly [state: string, step: string, outcome: string];

function parseOutcomes(table: string): Case[] {
  const lines = table.trim().split('\n');
  const [header, ...rows] = lines.map((line) => line.split(/ {2,}/));
  const [, ...states] = header as string[];
  return rows.flatMap(([step, ...outcomes]) =>
    outcomes.map((outcome, column): Case => [states[column]!, step!, outcome]),
  );
}

/** Registers the suite. `createHarness` is called once. */
export function storeContract(name: string, createHarness: () => Promise<StoreHarness>): void {
  describe(`contract of ${name}`, () => {
    let harness: StoreHarness;
    let store: CacheStore;
    /** Each test has a key of its own. */
    let key = '';
    let keyCount = 0;

    beforeAll(async () => {
      harness = await createHarness();
      store = harness.store;
    });
    afterAll(() => harness?.close());
    beforeEach(() => {
      keyCount++;
      key = `contract:${keyCount}`;
    });

    const showKey = async (): Promise<string> => show((await store.get([key]))[0]!);
    const valueOf = (
      version: number,
      payload: string | null = 'new',
      ttlMs = LONG_MS,
    ): CacheValue => ({ key, version, payload, ttlMs });
    const seed = async (
      version: number,
      payload: string | null,
      ttlMs = LONG_MS,
    ): Promise<void> => {
      await store.lease([key], 'seed', LONG_MS);
      expect(await store.fill('seed', [valueOf(version, payload, ttlMs)])).toEqual([true]);
    };
    const publish = (token: string, version: number, payload: string | null = 'new') =>
      store.publish(token, [valueOf(version, payload)]);
    const publishAbsence = (token: string) => store.publish(token, [{ key, absent: true }]);

    describe('each state under each step', () => {
      const states: Record<string, () => Promise<unknown>> = {
        absent: async () => undefined,
        'own lease': () => store.lease([key], 'me', LONG_MS),
        'other lease': () => store.lease([key], 'other', LONG_MS),
        value: () => seed(5, 'old'),
        none: () => seed(5, null),
        'own fence': async () => {
          await seed(5, 'old');
          await store.fence([key], 'me', LONG_MS);
        },
        'other fence': async () => {
          await seed(5, 'old');
          await store.fence([key], 'other', LONG_MS);
        },
        'both fences': async () => {
          await seed(5, 'old');
          await store.fence([key], 'me', LONG_MS);
          await store.fence([key], 'other', LONG_MS);
        },
      };
      const steps: Record<string, () => Promise<unknown>> = {
        get: () => store.get([key]),
        lease: () => store.lease([key], 'me', LONG_MS),
        'fill 7': () => store.fill('me', [valueOf(7)]),
        fence: () => store.fence([key], 'me', LONG_MS),
        'publish 7': () => publish('me', 7),
        'publish 5': () => publish('me', 5),
        'publish 3': () => publish('me', 3),
        'publish none 7': () => publish('me', 7, null),
        'publish absent': () => publishAbsence('me'),
        unfence: () => store.unfence([key], 'me'),
        'replace old@5': () =>
          store.replace([
            { key, seen: { version: 5, payload: 'old' }, version: 6, payload: 'new' },
          ]),
      };

      it.each(parseOutcomes(OUTCOMES))('%s, then %s → %s', async (state, step, outcome) => {
        await states[state]!();
        await steps[step]!();
        expect(await showKey()).toBe(outcome);
      });
    });

    describe('leases', () => {
      it('a lease goes to only one of two readers', async () => {
        expect((await store.lease([key], 'me', LONG_MS)).map(show)).toEqual(['absent']);
        expect((await store.lease([key], 'other', LONG_MS)).map(show)).toEqual(['lease']);
      });

      it('a cached value is returned and not leased', async () => {
        await seed(5, 'old');
        expect((await store.lease([key], 'me', LONG_MS)).map(show)).toEqual(['old@5']);
      });

      it('a lease expires, and then another reader may fill', async () => {
        await store.lease([key], 'me', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect((await store.lease([key], 'other', LONG_MS)).map(show)).toEqual(['absent']);
        expect(await store.fill('me', [valueOf(5)])).toEqual([false]);
        expect(await store.fill('other', [valueOf(6)])).toEqual([true]);
        expect(await showKey()).toBe('new@6');
      });

      it('a lease fills only once', async () => {
        await store.lease([key], 'me', LONG_MS);
        expect(await store.fill('me', [valueOf(5)])).toEqual([true]);
        expect(await store.fill('me', [valueOf(9)])).toEqual([false]);
        expect(await showKey()).toBe('new@5');
      });

      it('a lease that was fenced never fills, also after the fence is gone', async () => {
        await store.lease([key], 'reader', LONG_MS);
        await store.fence([key], 'writer', LONG_MS);
        expect(await store.fill('reader', [valueOf(5)])).toEqual([false]);
        await store.unfence([key], 'writer');
        expect(await store.fill('reader', [valueOf(5)])).toEqual([false]);
        expect(await showKey()).toBe('absent');
      });

      it('a lease under which somebody published never fills', async () => {
        await store.lease([key], 'reader', LONG_MS);
        await publish('writer', 6);
        expect(await store.fill('reader', [valueOf(5)])).toEqual([false]);
        expect(await showKey()).toBe('absent');
      });
    });

    describe('fences', () => {
      it('a fence stays until its last writer has gone', async () => {
        await store.fence([key], 'a', LONG_MS);
        await store.fence([key], 'b', LONG_MS);
        await store.fence([key], 'c', LONG_MS);
        await publish('b', 2);
        await store.unfence([key], 'c');
        expect(await showKey()).toBe('fence');
        await publish('a', 3);
        expect(await showKey()).toBe('new@3');
      });

      it('the greatest version published under a fence is its floor', async () => {
        await store.fence([key], 'first', LONG_MS);
        await store.fence([key], 'second', LONG_MS);
        await publish('second', 9);
        await publish('first', 8);
        expect(await showKey()).toBe('absent');
      });

      it.each([
        ['value', 'old'],
        ['negative entry', null],
      ])('the version of the %s that a fence destroyed is its floor', async (_, payload) => {
        await seed(9, payload);
        await store.fence([key], 'late', LONG_MS);
        await publish('late', 8);
        expect(await showKey()).toBe('absent');
      });

      it('a fence keeps its floor when another writer joins and the first leaves', async () => {
        await seed(9, 'old');
        await store.fence([key], 'a', LONG_MS);
        await store.fence([key], 'b', LONG_MS);
        await store.unfence([key], 'a');
        await publish('b', 8);
        expect(await showKey()).toBe('absent');
      });

      // Nobody knows how new the row is that the absence stands for.
      it('nothing is stored under a fence after an absence was published', async () => {
        await store.fence([key], 'a', LONG_MS);
        await store.fence([key], 'b', LONG_MS);
        await publishAbsence('a');
        expect(await showKey()).toBe('fence');
        await publish('b', 8);
        expect(await showKey()).toBe('absent');
      });

      it('an older publication does not lower the floor', async () => {
        await seed(9, 'old');
        await store.fence([key], 'a', LONG_MS);
        await store.fence([key], 'b', LONG_MS);
        await publish('a', 4);
        await publish('b', 8);
        expect(await showKey()).toBe('absent');
      });

      it('a publication raises the floor although its token is not in the fence', async () => {
        await store.fence([key], 'a', LONG_MS);
        await publish('stranger', 9);
        await publish('a', 8);
        expect(await showKey()).toBe('absent');
      });

      it('a publication says whether its token was in the fence', async () => {
        const fenced = [await publish('me', 1)];
        await store.fence([key], 'me', LONG_MS);
        await store.fence([key], 'other', LONG_MS);
        fenced.push(await publish('stranger', 2), await publish('me', 3), await publish('me', 4));
        fenced.push(await publishAbsence('other'), await publishAbsence('other'));
        expect(fenced.flat()).toEqual([false, false, true, false, true, false]);
      });

      it('a publication says that its token was not in the fence after the deadline', async () => {
        await store.fence([key], 'me', SHORT_MS);
        await store.fence([key], 'other', LONG_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await publish('me', 1)).toEqual([false]);
      });

      it('a fence expires at its deadline, and then its writer stores nothing', async () => {
        await store.fence([key], 'crashed', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('absent');
        await publish('crashed', 8);
        expect(await showKey()).toBe('absent');
      });

      // Nobody knows what the crashed writer has committed.
      it('a token in a fence expires → the next writer of the fence stores nothing', async () => {
        await store.fence([key], 'next', LONG_MS);
        await store.fence([key], 'crashed', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        await publish('next', 8);
        expect(await showKey()).toBe('absent');
      });

      it('a fence lives until the later of two deadlines, whichever came first', async () => {
        await store.fence([key], 'long', LONG_MS);
        await store.fence([key], 'short', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('fence');
      });

      it('a writer whose token has expired stores nothing under another fence', async () => {
        await store.fence([key], 'other', LONG_MS);
        await store.fence([key], 'slow', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        await publish('slow', 9);
        expect(await showKey()).toBe('fence');
        await publish('other', 8);
        expect(await showKey()).toBe('absent');
      });

      it('a writer that fences twice keeps the later deadline and publishes once', async () => {
        await store.fence([key], 'me', LONG_MS);
        await store.fence([key], 'me', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('fence');
        await publish('me', 8);
        expect(await showKey()).toBe('new@8');
      });

      it('a writer that has no token in a fence does not remove it with a rollback', async () => {
        await store.fence([key], 'a', LONG_MS);
        await store.unfence([key], 'stranger');
        expect(await showKey()).toBe('fence');
      });
    });

    describe('publications', () => {
      it('after a flush of its fence, a publication stores nothing', async () => {
        await store.fence([key], 'me', LONG_MS);
        await harness.flush();
        await publish('me', 8);
        expect(await showKey()).toBe('absent');
      });

      it('after a flush of its fence, a publication destroys the lease of a reader', async () => {
        await store.fence([key], 'me', LONG_MS);
        await harness.flush();
        await store.lease([key], 'reader', LONG_MS);
        await publish('me', 8);
        expect(await store.fill('reader', [valueOf(7)])).toEqual([false]);
        expect(await showKey()).toBe('absent');
      });

      it('after a flush of its fence, a publication replaces an older value', async () => {
        await store.fence([key], 'me', LONG_MS);
        await harness.flush();
        await seed(7, 'old');
        await publish('me', 8);
        expect(await showKey()).toBe('new@8');
      });

      it('after a flush of its fence, a publication leaves a newer value', async () => {
        await store.fence([key], 'me', LONG_MS);
        await harness.flush();
        await seed(9, 'old');
        await publish('me', 8);
        expect(await showKey()).toBe('old@9');
      });

      it('the same publication a second time changes nothing', async () => {
        await store.fence([key], 'me', LONG_MS);
        await publish('me', 8);
        await publish('me', 8);
        expect(await showKey()).toBe('new@8');
      });

      it('versions compare as numbers, up to the greatest safe integer', async () => {
        await seed(9, 'old');
        await publish('me', 10);
        expect(await showKey()).toBe('new@10');
        await publish('me', Number.MAX_SAFE_INTEGER);
        expect(await showKey()).toBe(`new@${Number.MAX_SAFE_INTEGER}`);
      });

      it('one call publishes values, negative entries and absences', async () => {
        const [a, b, c] = [`${key}a`, `${key}b`, `${key}c`];
        await store.fence([a, b, c], 'me', LONG_MS);
        await store.publish('me', [
          { key: a, version: 1, payload: 'x', ttlMs: LONG_MS },
          { key: b, absent: true },
          { key: c, version: 2, payload: null, ttlMs: LONG_MS },
        ]);
        expect((await store.get([a, b, c])).map(show)).toEqual(['x@1', 'absent', 'none@2']);
      });
    });

    describe('entries', () => {
      it('a filled entry expires', async () => {
        await seed(5, 'new', SHORT_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('absent');
      });

      it('a published entry expires', async () => {
        await store.fence([key], 'me', LONG_MS);
        await store.publish('me', [valueOf(5, null, SHORT_MS)]);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('absent');
      });

      it.each([
        ['is empty', ''],
        ['has every kind of line end and a zero byte', 'a\r\nb\nc\0d\t"\\'],
        ['has characters of many scripts and planes', 'żółć 漢字 🦔 ﷽ e\u0301'],
        ['looks like another state', 'F00000000000000000009'],
        ['has a megabyte', 'ż'.repeat(500_000)],
      ])('a payload that %s is read as it was written', async (_, payload) => {
        await seed(5, payload);
        expect(await store.get([key])).toEqual([{ state: 'value', version: 5, payload }]);
      });

      it.each([-1, 0.5, NaN, Number.MAX_SAFE_INTEGER + 1])(
        'the version %d is rejected',
        async (version) => {
          const invalid = { version, payload: 'x' };
          const valid = { version: 1, payload: 'x' };
          await expect(store.fill('me', [valueOf(version)])).rejects.toThrow(RangeError);
          await expect(publish('me', version)).rejects.toThrow(RangeError);
          await expect(store.replace([{ key, seen: invalid, ...valid }])).rejects.toThrow(
            RangeError,
          );
          await expect(store.replace([{ key, seen: valid, ...invalid }])).rejects.toThrow(
            RangeError,
          );
        },
      );
    });

    describe('replacements', () => {
      const SEEN = { version: 5, payload: 'old' };
      const CLAIM = { version: 5, payload: 'old, claimed' };
      const replace = async (
        seen: CacheText,
        next: CacheText,
        ttlMs?: number,
      ): Promise<boolean> => {
        const ttl = ttlMs === undefined ? {} : { ttlMs };
        const [isReplaced] = await store.replace([{ key, seen, ...next, ...ttl }]);
        return isReplaced as boolean;
      };

      it('only the value that was seen is replaced', async () => {
        await seed(5, 'old');
        expect(await replace({ version: 5, payload: 'other' }, CLAIM)).toBe(false);
        expect(await replace({ version: 4, payload: 'old' }, CLAIM)).toBe(false);
        expect(await showKey()).toBe('old@5');
        expect(await replace(SEEN, CLAIM)).toBe(true);
        expect(await replace(SEEN, CLAIM)).toBe(false);
        expect(await showKey()).toBe('old, claimed@5');
      });

      it('only one of two refreshers replaces a value', async () => {
        await seed(5, 'old');
        const results = await Promise.all(
          [1, 2].map((who) => replace(SEEN, { version: 5, payload: `claimed by ${who}` })),
        );
        expect(results.filter(Boolean)).toHaveLength(1);
      });

      const writes: Record<string, () => Promise<unknown>> = {
        'a fence and a rollback': async () => {
          await store.fence([key], 'writer', LONG_MS);
          await store.unfence([key], 'writer');
        },
        'a publication': () => publish('writer', 6),
        'a deletion': () => publishAbsence('writer'),
      };
      it.each(Object.keys(writes))('%s destroys a claim for good', async (write) => {
        await seed(5, 'old');
        await replace(SEEN, CLAIM);
        await writes[write]!();
        const shownAfterWrite = await showKey();
        expect(await replace(CLAIM, { version: 7, payload: 'refreshed' }, LONG_MS)).toBe(false);
        expect(await showKey()).toBe(shownAfterWrite);
      });

      // Repeated, because the entry may expire first on a busy machine.
      const replaceShortLived = (next: CacheText, ttlMs?: number): Promise<boolean> =>
        eventually('a short-lived value is replaced before it expires', async () => {
          await publishAbsence('cleaner');
          await seed(5, 'old', SHORT_MS);
          return replace(SEEN, next, ttlMs);
        });

      it('a replacement without a lifetime expires when the value would have', async () => {
        await replaceShortLived(CLAIM);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('absent');
      });

      it('a replacement with a lifetime has that lifetime', async () => {
        await replaceShortLived({ version: 6, payload: 'refreshed' }, LONG_MS);
        await harness.wait(LONGER_THAN_SHORT_MS);
        expect(await showKey()).toBe('refreshed@6');
      });
    });

    describe('many keys', () => {
      const createKeys = (count: number): string[] =>
        Array.from({ length: count }, (_, index) => `${key}:${index}`);

      it('many keys are answered in the order asked, absent and duplicate ones too', async () => {
        const [a, b, c] = createKeys(3) as [string, string, string];
        await store.lease([a, b], 'me', LONG_MS);
        const filled = await store.fill('me', [
          { key: b, version: 2, payload: 'b', ttlMs: LONG_MS },
          { key: c, version: 3, payload: 'c', ttlMs: LONG_MS },
          { key: a, version: 1, payload: null, ttlMs: LONG_MS },
        ]);
        expect(filled).toEqual([true, false, true]);
        const shown = (await store.get([c, b, a, b, b])).map(show);
        expect(shown).toEqual(['absent', 'b@2', 'none@1', 'b@2', 'b@2']);
      });

      it('a key that one call asks for twice is leased once', async () => {
        const [a, b] = createKeys(2) as [string, string];
        const entries = await store.lease([a, b, a], 'me', LONG_MS);
        expect(entries.map(show)).toEqual(['absent', 'absent', 'lease']);
      });

      it('callers of the same tick each get their own answer', async () => {
        const keys = createKeys(20);
        const nextKey = (index: number): string => keys[(index + 1) % keys.length]!;
        await store.fence(keys, 'me', LONG_MS);
        await store.publish(
          'me',
          keys.map((each) => ({ key: each, version: 1, payload: each, ttlMs: LONG_MS })),
        );
        const answers = await Promise.all(
          keys.map((each, index) => store.get([each, nextKey(index)])),
        );
        expect(answers.map((pair) => pair.map(show))).toEqual(
          keys.map((each, index) => [`${each}@1`, `${nextKey(index)}@1`]),
        );
      });

      it('no key at all is no error', async () => {
        expect(await store.get([])).toEqual([]);
        expect(await store.lease([], 'me', LONG_MS)).toEqual([]);
        expect(await store.fill('me', [])).toEqual([]);
        expect(await store.replace([])).toEqual([]);
        await store.fence([], 'me', LONG_MS);
        await store.publish('me', []);
        await store.unfence([], 'me');
      });

      it('a thousand keys are filled and read in one call', async () => {
        const keys = createKeys(1_000);
        await store.lease(keys, 'me', LONG_MS);
        await store.fill(
          'me',
          keys.map((each, version) => ({ key: each, version, payload: 'p', ttlMs: LONG_MS })),
        );
        const shown = (await store.get(keys)).map(show);
        expect(shown).toEqual(keys.map((_, version) => `p@${version}`));
      });
    });

    it('the store is available and answers a ping', async () => {
      expect(store.isAvailable).toBe(true);
      await store.ping();
    });
  });
}

/** An entry in a word: `absent`, `lease`, `fence`, `none@<version>` or `<payload>@<version>`. */
export function show(entry: CacheEntry): string {
  if (entry.state === 'value') return `${entry.payload}@${entry.version}`;
  return entry.state === 'none' ? `none@${entry.version}` : entry.state;
}
