/**
 * The short form of `npm run verify -- chaos`: real nodes over a real PostgreSQL and Redis, faults
 * that a seed decides, a check of their history. HOLDFAST_SEED=<seed> repeats the same faults.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { spawnBound } from '../../support/child-process.js';
import { newSeed } from '../../support/program-table.js';
import type { ChaosReport, ScenarioTotals } from './chaos.js';
import { faultCounts } from './report.js';

const SEED = Number(process.env.HOLDFAST_SEED ?? newSeed());
/** Only ends a run that hangs. */
const TIMEOUT_MS = 900_000;

const LINK_FAULTS = ['delayed', 'cut', 'refused', 'stalled', 'half-open'];

/** Each of them happens at least once, whatever the seed. */
const FAULTS = [
  ...['sql', 'fenced', 'committed', 'published'].map((step) => `SIGKILL ${step}`),
  ...['SIGSTOP', 'clock jump', 'other database', 'other server', 'no REDIS_URL'],
  ...['LISTEN cut', 'COMMIT stalled', 'PostgreSQL killed'],
  ...['FLUSHALL', 'evictions', 'outage', 'address leads elsewhere'],
  ...['Redis hangs', 'Redis back empty', 'Redis back with an old dataset'],
  ...['failover by command', 'master killed', 'master hangs'],
  ...['shard failover', 'shard killed', 'slot moved', 'FLUSHALL of a shard'],
  ...['redis', 'postgres', 'sentinel'].flatMap((server) =>
    LINK_FAULTS.map((kind) => `${server} link ${kind}`),
  ),
];

/** The run itself failed, e.g. because a server did not start in time: it proves nothing. */
const INCONCLUSIVE = 2;

interface ProgramResult {
  readonly code: number | null;
  readonly output: string;
}

function runProgram(args: readonly string[]): Promise<ProgramResult> {
  const program = ['scripts/run.mjs', 'test/verify/run.ts', 'chaos', ...args];
  return new Promise((resolve) => {
    const child = spawnBound(process.execPath, program, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
    }
    child.once('close', (code) => resolve({ code, output }));
  });
}

describe(`nodes under faults (seed ${SEED})`, () => {
  let report: ChaosReport;
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'holdfast-chaos-'));
    const file = join(folder, 'report.json');
    const args = ['--form', 'short', '--seed', String(SEED), '--report', file];
    let result = await runProgram(args);
    if (result.code === INCONCLUSIVE) result = await runProgram(args);
    if (result.code !== 0 && result.code !== 1) {
      throw new Error(`The run ended with ${result.code}: ${result.output}`);
    }
    console.log(result.output);
    report = JSON.parse(await readFile(file, 'utf8')) as ChaosReport;
  }, TIMEOUT_MS);

  afterAll(() => rm(folder, { recursive: true, force: true }));

  const allTotals = (): ScenarioTotals[] => Object.values(report.totals);

  it('show no stale or uncommitted data and lose no acknowledged write', () =>
    expect(allTotals().flatMap(({ violations }) => Object.entries(violations))).toEqual([]));

  it('recover by themselves: no call hangs, and every node converges with the database', () =>
    expect(allTotals().flatMap(({ failures }) => failures)).toEqual([]));

  it('were exposed to every kind of fault', () =>
    expect(Object.keys(faultCounts(report)).sort()).toEqual([...FAULTS].sort()));

  it.each(['rests', 'refreshed'])('had %s', (outcome) => {
    const counts = allTotals().map(({ outcomes }) => outcomes[outcome] ?? 0);
    expect(Math.max(...counts)).toBeGreaterThan(0);
  });

  it('read, wrote and hit the cache in every scenario', () => {
    const idle = allTotals().filter(
      ({ reads, acknowledged, outcomes }) =>
        !(reads > 100 && acknowledged > 10 && (outcomes.hit ?? 0) > 0),
    );
    expect(idle).toEqual([]);
  });
});
