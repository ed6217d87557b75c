/**
 * The protocol explored: every variant of the table in docs/cache-protocol.md comes out as it says there. `npm test` runs the
 * small ones; HOLDFAST_MODEL=long runs all of them and prints the table and each violation's shortest trace.
 * The model's scripts are walked beside the MemoryStore's, which test/cache/store-model.spec.ts holds against Redis.
 */
import { afterAll, describe, expect, it } from '@jest/globals';
import { type CacheEntry, type CacheStore, dropKeys } from '../../../src/cache/cache.store.js';
import { MemoryStore } from '../../../src/cache/memory.store.js';
import { explore, tell } from './explore.js';
import {
  ABSENT,
  type Cell,
  claim,
  expire,
  fence,
  fill,
  lease,
  publish,
  replace,
  unfence,
} from './scripts.model.js';
import { AS_SHIPPED, VARIANTS } from './variants.js';

const LONG = process.env.HOLDFAST_MODEL === 'long';

describe('the protocol, every interleaving', () => {
  const table: string[] = [];
  afterAll(() => {
    if (LONG) process.stdout.write(`\n${table.join('\n')}\n`);
  });

  for (const { name, expect: expected, long, protocol } of VARIANTS) {
    if (long && !LONG) continue;
    const says = expected === 'holds' ? 'holds' : `breaks ${expected}`;
    it(`${name}: ${says}`, () => {
      const found = explore(protocol);
      const { violation, states, seconds } = found;
      table.push(`| ${name} | ${says} | ${states} | ${seconds.toFixed(1)} |`);
      if (LONG && violation) process.stdout.write(`\n${name}\n${tell(found)}\n`);
      const result = violation?.slice(0, 2) ?? 'holds';
      if (result !== expected)
        throw new Error(`${name} was to come out as ${expected}:\n${tell(found)}`);
    }, 600_000);
  }
});

describe("the model's scripts are the store's", () => {
  const KEY = 'k';
  const FENCE_MS = 1_000;
  const LONG_MS = 1_000_000;
  const [WRITERS, READERS, VERSIONS] = [3, 2, 3];

  /** One step on a cell and on the store that holds the same. */
  interface Move {
    readonly words: string;
    model(cell: Cell): Cell;
    store(store: CacheStore, clock: Clock): Promise<void>;
  }

  /** Each fence is a moment later than the last, so that tokens end in their order. */
  class Clock {
    now = 0;
    readonly deadlines = new Map<number, number>();
  }

  const entry = (version: number, none: boolean) =>
    ({ is: 'entry', author: version, version, none, claim: 0 }) as const;
  const value = (version: number, none: boolean) => ({
    key: KEY,
    version,
    payload: none ? null : 'row',
    ttlMs: LONG_MS,
  });
  const claimedBy = (reader: number): string => `row, claimed by ${reader}`;
  /** A replacement of what the key holds, if its payload is this one. */
  async function asSeen(store: CacheStore, payload: string) {
    const [held] = await store.get([KEY]);
    const { version } = { version: 0, ...held };
    return { key: KEY, seen: { version, payload }, version };
  }
  const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

  const moves: Move[] = [
    ...range(READERS).map((reader): Move => ({
      words: `reader ${reader} leases`,
      model: (cell) => lease(cell, reader),
      store: async (store) => void (await store.lease([KEY], `r${reader}`, LONG_MS)),
    })),
    ...range(READERS).flatMap((reader) =>
      [0, ...range(VERSIONS)].map((version): Move => ({
        words: `reader ${reader} fills ${version}`,
        model: (cell) => fill(cell, reader, entry(version, version === 0)),
        store: async (store) =>
          void (await store.fill(`r${reader}`, [value(version, version === 0)])),
      })),
    ),
    ...range(READERS).flatMap((reader): Move[] => [
      {
        words: `reader ${reader} claims`,
        model: (cell) => claim(cell, reader),
        store: async (store) =>
          void (await store.replace([
            { ...(await asSeen(store, 'row')), payload: claimedBy(reader) },
          ])),
      },
      ...range(VERSIONS).map((version): Move => ({
        words: `reader ${reader} refreshes to ${version}`,
        model: (cell) => replace(cell, reader, entry(version, false)),
        store: async (store) =>
          void (await store.replace([
            {
              ...(await asSeen(store, claimedBy(reader))),
              ...value(version, false),
              payload: 'row',
            },
          ])),
      })),
    ]),
    ...range(WRITERS).flatMap((writer): Move[] => [
      {
        words: `writer ${writer} fences`,
        model: (cell) => fence(AS_SHIPPED, cell, writer),
        store: async (store, clock) => {
          clock.now++;
          clock.deadlines.set(writer, clock.now + FENCE_MS);
          await store.fence([KEY], `w${writer}`, FENCE_MS);
        },
      },
      {
        words: `writer ${writer} unfences`,
        model: (cell) => unfence(AS_SHIPPED, cell, writer),
        store: (store) => store.unfence([KEY], `w${writer}`),
      },
      {
        words: `writer ${writer} publishes absence`,
        model: (cell) => publish(AS_SHIPPED, cell, writer, undefined),
        store: (store) => store.publish(`w${writer}`, [{ key: KEY, absent: true }]),
      },
      ...range(VERSIONS).flatMap((version) =>
        [false, true].map((none): Move => ({
          words: `writer ${writer} publishes ${none ? 'no row' : 'a row'} of version ${version}`,
          model: (cell) => publish(AS_SHIPPED, cell, writer, entry(version, none)),
          store: (store) => store.publish(`w${writer}`, [value(version, none)]),
        })),
      ),
    ]),
    {
      words: 'the key is dropped',
      model: (cell) =>
        AS_SHIPPED.drop === 'fence'
          ? unfence(AS_SHIPPED, fence(AS_SHIPPED, cell, WRITERS + 1), WRITERS + 1)
          : publish(AS_SHIPPED, cell, WRITERS + 1, undefined),
      store: (store) => dropKeys(store, [KEY]),
    },
  ];

  /** The first token's deadline passes. */
  const end = (cell: Extract<Cell, { is: 'fence' }>): Move => ({
    words: `writer ${cell.tokens[0]}'s fence ends`,
    model: () => expire(AS_SHIPPED, cell),
    store: (_, clock) => {
      clock.now = Math.max(clock.now, clock.deadlines.get(cell.tokens[0] as number) as number);
      return Promise.resolve();
    },
  });

  const seenInModel = (cell: Cell): string =>
    cell.is === 'entry' ? `${cell.none ? 'none' : 'value'} ${cell.version}` : cell.is;
  const seenInStore = (held: CacheEntry): string =>
    'version' in held ? `${held.state} ${held.version}` : held.state;

  async function walk(way: readonly Move[]): Promise<void> {
    const clock = new Clock();
    const store = new MemoryStore({ maxEntries: 1, now: () => clock.now });
    let cell: Cell = ABSENT;
    for (const [index, move] of way.entries()) {
      cell = move.model(cell);
      await move.store(store, clock);
      const [held] = await store.get([KEY]);
      if (seenInStore(held as CacheEntry) === seenInModel(cell)) continue;
      const words = way.slice(0, index + 1).map((step) => step.words);
      throw new Error(
        `${words.join(', ')}: the store has ${seenInStore(held as CacheEntry)}, the model ${seenInModel(cell)}`,
      );
    }
  }

  it('from each state that a key can have, under each step and the one after it', async () => {
    const ways = new Map<string, { cell: Cell; way: readonly Move[] }>([
      [JSON.stringify(ABSENT), { cell: ABSENT, way: [] }],
    ]);
    const movesFrom = (cell: Cell): Move[] => (cell.is === 'fence' ? [...moves, end(cell)] : moves);
    for (const { cell, way } of ways.values()) {
      for (const move of movesFrom(cell)) {
        const after = move.model(cell);
        const known = JSON.stringify(after);
        if (!ways.has(known)) ways.set(known, { cell: after, way: [...way, move] });
      }
    }
    let walks = 0;
    for (const { cell, way } of ways.values()) {
      for (const move of movesFrom(cell)) {
        const then = move.model(cell);
        // Publications tell which tokens and which floor a fence has, so they are what comes after.
        for (const last of movesFrom(then).filter(({ words }) =>
          /publishes a row|ends/.test(words),
        )) {
          await walk([...way, move, last]);
          walks++;
        }
      }
    }
    expect(ways.size).toBeGreaterThan(60);
    expect(walks).toBeGreaterThan(10_000);
  });
});
