/**
 * The short form of `npm run verify -- api-fuzz`: each operation of the OpenAPI document gets each
 * kind of request once. HOLDFAST_SEED=<seed> repeats the same requests.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { compile } from '../../../scripts/compile.mjs';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { newSeed } from '../../support/program-table.js';
import { type Check, CHECKS, textOf } from './checks.js';
import { type FuzzResult, runPhases } from './phases.js';

const SEED = Number(process.env.HOLDFAST_SEED ?? newSeed());
/** Only ends a run that hangs. */
const TIMEOUT_MS = 600_000;

describe(`requests from the OpenAPI document (seed ${SEED})`, () => {
  let compiled: Awaited<ReturnType<typeof compile>>;
  let database: TestDatabase;
  let result: FuzzResult;

  beforeAll(async () => {
    [compiled, database] = await Promise.all([compile(), createTestDatabase()]);
    result = await runPhases({
      folder: compiled.folder,
      databaseUrl: database.url,
      seed: SEED,
      requests: 900,
      workers: 2,
      damaged: 40,
    });
  }, TIMEOUT_MS);

  afterAll(async () => {
    await database?.drop();
    await compiled?.remove();
  });

  it.each(Object.entries(CHECKS))('%s: %s', (check) => {
    const found = result.tally.findings.filter((finding) => finding.check === check);
    expect(found.map(textOf)).toEqual([]);
    expect(result.tally.byCheck.get(check as Check)).toBeGreaterThan(0);
  });

  it('reach every operation', () => {
    const { operations, tally } = result;
    expect(operations.filter((name) => !tally.byOperation.has(name))).toEqual([]);
  });
});
