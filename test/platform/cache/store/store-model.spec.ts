/**
 * Random sequences of steps, on Redis, in memory and in the model at once: after each step all three must have answered
 * alike and hold alike. A failure prints its seed and the shortest sequence; HOLDFAST_SEED=<seed> runs it again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { CacheStore } from '../../src/cache/cache.store.js';
import { MemoryStore } from '../../src/cache/memory.store.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { show } from './store.contract.js';
import { type Step, StoreModel } from './store.model.js';

const LONG = 3_600_000;
const SHORT = 300;
const KEYS = ['k1', 'k2', 'k3'];

const keys = fc.array(fc.constantFrom(...KEYS), { minLength: 1, maxLength: 3 });
const token = fc.constantFrom('a', 'b', 'c');
const ms = fc.oneof(
  { weight: 9, arbitrary: fc.constant(LONG) },
  { weight: 1, arbitrary: fc.constant(SHORT) },
);
const entry = fc.record({
  version: fc.integer({ min: 0, max: 12 }),
  payload: fc.option(fc.constantFrom('x', 'y'), { freq: 4 }),
  ttlMs: ms,
});
const steps: fc.Arbitrary<Step>[] = [
  fc.record({ step: fc.constantFrom('lease', 'fence', 'fence'), keys, token, ms }),
  fc.record({ step: fc.constantFrom('fill', 'publish'), keys, token, entry }),
  fc.record({ step: fc.constantFrom('unfence', 'retract'), keys, token }),
  fc.record({
    step: fc.constant('replace'),
    keys: fc.uniqueArray(fc.constantFrom(...KEYS), { minLength: 1, maxLength: 3 }),
    missed: fc.boolean(),
    // No milliseconds: what is left.
    entry: fc.record({
      version: fc.integer({ min: 0, max: 12 }),
      payload: fc.constantFrom('x', 'y'),
      ttlMs: fc.constantFrom(0, LONG, LONG, SHORT),
    }),
  }),
];
const sequence = fc.array(
  fc.oneof(
    { weight: 60, arbitrary: steps[0]! },
    { weight: 80, arbitrary: steps[1]! },
    { weight: 25, arbitrary: steps[2]! },
    { weight: 20, arbitrary: steps[3]! },
    { weight: 1, arbitrary: fc.constant<Step>({ step: 'wait' }) },
  ),
  { minLength: 10, maxLength: 60 },
);

async function run(store: CacheStore, step: Step, name: (key: string) => string) {
  if (step.step === 'wait') return [];
  const named = step.keys.map(name);
  switch (step.step) {
    case 'lease':
      return (await store.lease(named, step.token, step.ms)).map(show);
    case 'fill':
      return store.fill(
        step.token,
        named.map((key) => ({ key, ...step.entry })),
      );
    case 'replace': {
      const held = await store.get(named);
      const { ttlMs, ...other } = step.entry;
      return store.replace(
        named.map((key, index) => {
          const entry = held[index]!;
          const seen =
            entry.state === 'value' && !step.missed
              ? entry
              : { version: 99, payload: 'nobody has this' };
          return { key, seen, ...other, ...(ttlMs === 0 ? {} : { ttlMs }) };
        }),
      );
    }
    case 'fence':
      await store.fence(named, step.token, step.ms);
      break;
    case 'unfence':
      await store.unfence(named, step.token);
      break;
    default:
      await store.publish(
        step.token,
        named.map((key) =>
          step.step === 'publish' ? { key, ...step.entry } : { key, absent: true as const },
        ),
      );
  }
  return named.map(() => undefined);
}

let server: RedisServer;
let redis: RedisStore;
beforeAll(async () => {
  server = await startRedis();
  redis = RedisStore.connect({ url: server.url, commandTimeoutMs: 5_000 });
  while (!redis.available) await sleep(5);
});
afterAll(async () => {
  await redis.close();
  await server.stop();
});

it('Redis, memory and the model stay alike under any sequence of steps', async () => {
  let runs = 0;
  let compared = 0;
  const seed = process.env.HOLDFAST_SEED ? Number(process.env.HOLDFAST_SEED) : undefined;
  await fc.assert(
    fc.asyncProperty(sequence, async (all) => {
      const prefix = `${++runs}:`;
      const model = new StoreModel();
      const memory = new MemoryStore({ now: () => model.now });
      let shortSince: number | undefined;
      for (const step of all) {
        // Redis's clock is real: whatever is short-lived is either surely alive, or everyone waits until it is surely gone.
        if (
          step.step === 'wait' ||
          (shortSince !== undefined && performance.now() - shortSince > SHORT / 3)
        ) {
          if (shortSince !== undefined) await sleep(SHORT + 20);
          model.now += SHORT + 20;
          shortSince = undefined;
        }
        const life = 'ms' in step ? step.ms : 'entry' in step ? step.entry.ttlMs : LONG;
        if (life === SHORT) shortSince ??= performance.now();
        const answers = model.apply(step);
        expect(await run(memory, step, (key) => key)).toEqual(answers);
        const answered = await run(redis, step, (key) => prefix + key);
        const held = await redis.get(KEYS.map((key) => prefix + key));
        // A machine this slow has let the short-lived die under the step: it says nothing about the rest.
        if (shortSince !== undefined && performance.now() - shortSince > SHORT - 20) return;
        expect(answered).toEqual(answers);
        expect(held.map(show)).toEqual(KEYS.map((key) => model.show(key)));
        expect((await memory.get(KEYS)).map(show)).toEqual(KEYS.map((key) => model.show(key)));
        compared++;
      }
    }),
    { numRuns: 120, ...(seed === undefined ? {} : { seed }) },
  );
  expect(compared).toBeGreaterThan(1_000);
});
