/**
 * Every interleaving of the cache protocol's models: what must hold, holds, and each part that is
 * taken away breaks the promise that it is there for. HOLDFAST_MODEL=long, or
 * `npm run verify -- protocol-model`, explores also what takes minutes.
 */
import { describe, expect, it } from '@jest/globals';
import { CLAIMS } from './claims.js';
import { COMPLETE } from './many-nodes/parts.js';
import { SCENARIOS } from './many-nodes/scenarios.js';
import { COMPLETE as COMPLETE_NEAR } from './near-caches/parts.js';
import { SCENARIOS as NEAR_SCENARIOS } from './near-caches/scenarios.js';
import { AS_SHIPPED } from './one-key/variants.js';

const isLongForm = process.env.HOLDFAST_MODEL === 'long';
const MAX_EXPLORATION_MS = 1_800_000;

describe('the protocol model', () => {
  const explored = CLAIMS.filter(({ isLong }) => isLongForm || !isLong);

  it('has a name for each claim', () => {
    expect(new Set(CLAIMS.map(({ name }) => name)).size).toBe(CLAIMS.length);
  });

  it.each(explored)(
    '$model: $name → $expected',
    ({ name, expected, explore }) => {
      const { outcome, trace } = explore();
      if (outcome === expected) return;
      throw new Error(`${name}: expected ${expected}, found\n${trace.join('\n') || outcome}`);
    },
    MAX_EXPLORATION_MS,
  );

  it('takes each part of the protocol between nodes away at least once', () => {
    const ablated = new Set(
      SCENARIOS.flatMap(({ ablations }) => ablations.map(({ part }) => part)),
    );
    const scripts = new Set(Object.keys(AS_SHIPPED));
    const parts = Object.keys(COMPLETE).filter((part) => !scripts.has(part));
    expect(parts.filter((part) => !ablated.has(part as keyof typeof COMPLETE))).toEqual([]);
  });

  it('takes each part of the near caches away at least once', () => {
    const ablated = NEAR_SCENARIOS.flatMap(({ ablations }) => ablations.map(({ part }) => part));
    expect(new Set(ablated)).toEqual(new Set(Object.keys(COMPLETE_NEAR)));
  });

  it('explores the complete protocol in every scenario', () => {
    const incomplete = [...SCENARIOS, ...NEAR_SCENARIOS].filter(({ setup }) =>
      Object.values(setup.parts).includes(false),
    );
    expect(incomplete).toEqual([]);
  });
});
