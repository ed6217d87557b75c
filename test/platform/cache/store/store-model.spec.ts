/**
 * Random sequences of steps on Redis, in memory and in the model at once: after each step all three
 * must have answered alike and hold alike. fast-check prints the seed and the shortest sequence of
 * a failure; HOLDFAST_SEED=<seed> repeats it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type {
  CacheEntry,
  CacheReplacement,
  CacheStore,
} from '../../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { RedisStore } from '../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../support/eventually.js';
import { type RedisServer, startRedis } from '../../../support/redis.js';
import { show } from './store-contract.js';
import { type KeyStep, type Step, StoreModel } from './store-model.js';

const LONG_MS = 3_600_000;
const SHORT_MS = 300;
/** After this wait, whatever lives for SHORT_MS has surely expired. */
const LONGER_THAN_SHORT_MS = SHORT_MS + 20;
/** Until this age, whatever lives for SHORT_MS is surely alive. */
const SURELY_ALIVE_MS = SHORT_MS / 3;
const KEYS = ['k1', 'k2', 'k3'];

const keys = fc.array(fc.constantFrom(...KEYS), { minLength: 1, maxLength: 3 });
const distinctKeys = fc.uniqueArray(fc.constantFrom(...KEYS), { minLength: 1, maxLength: 3 });
const token = fc.constantFrom('a', 'b', 'c');
const version = fc.integer({ min: 0, max: 12 });
const lifetimeMs = fc.oneof(
  { weight: 9, arbitrary: fc.constant(LONG_MS) },
  { weight: 1, arbitrary: fc.constant(SHORT_MS) },
);
const entry = fc.record({
  version,
  payload: fc.option(fc.constantFrom('x', 'y'), { freq: 4 }),
  ttlMs: lifetimeMs,
});
const valueOrKeptExpiry = fc.record({
  version,
  payload: fc.constantFrom('x', 'y'),
  ttlMs: fc.constantFrom(0, LONG_MS, LONG_MS, SHORT_MS),
});

const leaseOrFence: fc.Arbitrary<Step> = fc.record({
  step: fc.constantFrom('lease', 'fence', 'fence'),
  keys,
  token,
  ms: lifetimeMs,
});
const fillOrPublish: fc.Arbitrary<Step> = fc.record({
  step: fc.constantFrom('fill', 'publish'),
  keys,
  token,
  entry,
});
const unfenceOrRetract: fc.Arbitrary<Step> = fc.record({
  step: fc.constantFrom('unfence', 'retract'),
  keys,
  token,
});
const replace: fc.Arbitrary<Step> = fc.record({
  step: fc.constant('replace'),
  keys: distinctKeys,
  isMissed: fc.boolean(),
  entry: valueOrKeptExpiry,
});
const sequence = fc.array(
  fc.oneof(
    { weight: 60, arbitrary: leaseOrFence },
    { weight: 80, arbitrary: fillOrPublish },
    { weight: 25, arbitrary: unfenceOrRetract },
    { weight: 20, arbitrary: replace },
    { weight: 1, arbitrary: fc.constant<Step>({ step: 'wait' }) },
  ),
  { minLength: 10, maxLength: 60 },
);

/** Takes a step on a store. The answer is the one that the model gives. */
async function takeStep(
  store: CacheStore,
  step: KeyStep,
  nameOf: (key: string) => string,
): Promise<(string | boolean | undefined)[]> {
  const names = step.keys.map(nameOf);
  const noAnswers = names.map(() => undefined);
  switch (step.step) {
    case 'lease':
      return (await store.lease(names, step.token, step.ms)).map(show);
    case 'fill':
      return store.fill(
        step.token,
        names.map((key) => ({ key, ...step.entry })),
      );
    case 'replace': {
      const entries = await store.get(names);
      return store.replace(names.map((key, index) => replacementOf(key, entries[index]!, step)));
    }
    case 'fence':
      await store.fence(names, step.token, step.ms);
      return noAnswers;
    case 'unfence':
      await store.unfence(names, step.token);
      return noAnswers;
    case 'publish':
      await store.publish(
        step.token,
        names.map((key) => ({ key, ...step.entry })),
      );
      return noAnswers;
    case 'retract':
      await store.publish(
        step.token,
        names.map((key) => ({ key, absent: true as const })),
      );
      return noAnswers;
  }
}

function replacementOf(
  key: string,
  current: CacheEntry,
  { isMissed, entry: { ttlMs, ...next } }: Extract<KeyStep, { step: 'replace' }>,
): CacheReplacement {
  const isSeen = current.state === 'value' && !isMissed;
  const seen = isSeen ? current : { version: 99, payload: 'held by no key' };
  return { key, seen, ...next, ...(ttlMs === 0 ? {} : { ttlMs }) };
}

/**
 * Redis has a real clock, the model a logical one. This lets them agree: whatever is short-lived is
 * either surely alive, or everybody waits until it has surely expired.
 */
class ShortLifetimes {
  /** When the oldest short-lived entry may have begun, by performance.now(). */
  private since: number | undefined;

  constructor(private readonly model: StoreModel) {}

  /** Call it before a step. */
  async settle(step: Step): Promise<void> {
    const mayExpire = this.ageMs() > SURELY_ALIVE_MS;
    if (step.step !== 'wait' && !mayExpire) return;
    if (this.since !== undefined) await sleep(LONGER_THAN_SHORT_MS);
    this.model.now += LONGER_THAN_SHORT_MS;
    this.since = undefined;
  }

  /** Call it right before a step that may begin a short lifetime. */
  note(step: KeyStep): void {
    if (lifetimeOf(step) === SHORT_MS) this.since ??= performance.now();
  }

  /** Whether something short-lived may have expired during the last step. */
  mayHaveExpired(): boolean {
    return this.ageMs() > SHORT_MS - 20;
  }

  private ageMs(): number {
    return this.since === undefined ? 0 : performance.now() - this.since;
  }
}

function lifetimeOf(step: KeyStep): number {
  if ('ms' in step) return step.ms;
  return 'entry' in step ? step.entry.ttlMs : LONG_MS;
}

let server: RedisServer;
let redis: RedisStore;
beforeAll(async () => {
  server = await startRedis();
  redis = RedisStore.connect({ url: server.url, commandTimeoutMs: 10_000 });
  await eventually('the store is available', () => redis.isAvailable);
});
afterAll(async () => {
  await redis?.close();
  await server?.stop();
});

it('Redis, memory and the model stay alike under any sequence of steps', async () => {
  let runs = 0;
  let comparisons = 0;
  const property = fc.asyncProperty(sequence, async (steps) => {
    runs++;
    const redisNameOf = (key: string): string => `${runs}:${key}`;
    const model = new StoreModel();
    const memory = new MemoryStore({ now: () => model.now });
    const lifetimes = new ShortLifetimes(model);
    for (const step of steps) {
      await lifetimes.settle(step);
      if (step.step === 'wait') continue;
      lifetimes.note(step);
      const expectedAnswers = model.apply(step);
      const expectedEntries = KEYS.map((key) => model.show(key));
      expect(await takeStep(memory, step, (key) => key)).toEqual(expectedAnswers);
      expect((await memory.get(KEYS)).map(show)).toEqual(expectedEntries);
      const redisAnswers = await takeStep(redis, step, redisNameOf);
      const redisEntries = await redis.get(KEYS.map(redisNameOf));
      // Only on a very slow machine. The rest of this sequence would prove nothing.
      if (lifetimes.mayHaveExpired()) return;
      expect(redisAnswers).toEqual(expectedAnswers);
      expect(redisEntries.map(show)).toEqual(expectedEntries);
      comparisons++;
    }
  });
  const seed = process.env.HOLDFAST_SEED ? { seed: Number(process.env.HOLDFAST_SEED) } : {};
  await fc.assert(property, { numRuns: 120, ...seed });
  expect(comparisons).toBeGreaterThan(1_000);
});
