/**
 * The short form of `npm run verify -- http-register`: what HTTP clients see on three nodes of the
 * service under faults. HOLDFAST_SEED=<seed> repeats the same faults.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { compile } from '../../../scripts/compile.mjs';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { newSeed } from '../../support/program-table.js';
import { Random } from '../../support/random.js';
import { type CampaignResult, runCampaign } from './campaign.js';
import { SHORT_SCHEDULES } from './faults.js';
import { HttpSite } from './site.js';

const SEED = Number(process.env.HOLDFAST_SEED ?? newSeed());
/** Only ends a run that hangs. */
const TIMEOUT_MS = 600_000;

const LINK_FAULTS = ['delayed', 'cut', 'refused', 'stalled', 'half-open'];
const FAULTS = [
  ...['redis', 'postgres', 'client'].flatMap((server) =>
    LINK_FAULTS.map((kind) => `${server} link ${kind}`),
  ),
  ...['Redis hangs', 'Redis back empty', 'Redis back with an old dataset', 'outage'],
  ...['FLUSHALL', 'evictions', 'node killed'],
];

describe(`HTTP clients of three nodes under faults (seed ${SEED})`, () => {
  let compiled: Awaited<ReturnType<typeof compile>>;
  let database: TestDatabase;
  let site: HttpSite;
  let result: CampaignResult;

  beforeAll(async () => {
    const random = new Random(SEED);
    [compiled, database] = await Promise.all([compile(), createTestDatabase()]);
    site = await HttpSite.start(compiled.folder, database.url, random);
    result = await runCampaign(site, {
      random,
      name: 'r',
      customers: 2,
      readersOfEachCustomer: 2,
      maxRestMs: 30,
      schedules: SHORT_SCHEDULES,
      passes: 1,
      minTraffic: 60,
    });
  }, TIMEOUT_MS);

  afterAll(async () => {
    await site?.stop();
    await database?.drop();
    await compiled?.remove();
  });

  it('see no older version, list, name or session than was acknowledged', () =>
    expect(result.violations).toEqual([]));

  it('get no answer that a client should not get', () => expect(result.problems).toEqual([]));

  it('were exposed to every kind of fault', () =>
    expect(Object.keys(site.faultCounts).sort()).toEqual([...FAULTS].sort()));

  it('lost answers, repeated requests, and read everything that is checked', () => {
    const { history, counts } = result;
    const sizes = Object.values(history).map((items: readonly unknown[]) => items.length);
    expect(Math.min(...sizes)).toBeGreaterThan(0);
    expect(counts.unanswered).toBeGreaterThan(0);
  });
});
