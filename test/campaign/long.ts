/**
 * The long form: round after round, alternating degraded writes refused (where only G1's own residual is excused) and allowed
 * (where G2's bound is measured), with every fault there is, until enough reads were judged or the time is up.
 */
import { migrateDatabase } from '../../src/database/migrate.js';
import { createTestDatabase, startSharedPostgres } from '../support/postgres.js';
import { type Result, runRound, summary } from './campaign.js';
import { Cluster } from './cluster.js';
import type { Weather } from './faults.js';
import { Random } from './random.js';

export interface LongOptions {
  readonly folder: string;
  readonly reads: number;
  readonly minutes: number;
  readonly seed: number;
  readonly nodes: number;
  readonly timesDividedBy: number;
}

/**
 * Faults of every kind, long enough to outlast every lease and fence (15 s, divided like them).
 * @param calm how many times longer than in the worst storm it is quiet between two of them
 */
export const storm = (nodes: number, ms: number, timesDividedBy: number, calm = 1): Weather => ({
  ms,
  nodes,
  quietMs: {
    link: 2_500 * calm,
    node: 9_000 * calm,
    redis: 6_000 * calm,
    evictions: 2_000 * calm,
    postgres: 5_000 * calm,
  },
  weights: {
    ...{ delay: 4, cut: 3, refuse: 2, stall: 3, 'half-open': 2, die: 6, kill: 1, stop: 1 },
    ...{ 'redis hangs': 2, 'redis restarts empty': 2, 'redis restarts old': 2, outage: 2 },
    ...{ flush: 2, evict: 3, 'listeners cut': 1 },
  },
  stopMs: [16_000 / timesDividedBy, 20_000 / timesDividedBy],
  halfOpenMs: [200, 8_000 / timesDividedBy],
});

/** @returns how many rounds failed */
export async function runLong({ folder, reads, minutes, seed, nodes, timesDividedBy }: LongOptions): Promise<number> {
  console.log(`campaign: seed ${seed}, ${nodes} nodes, ${reads} reads or ${minutes} minutes`);
  const server = await startSharedPostgres(migrateDatabase);
  process.env.TEST_POSTGRES_URL = server.url;
  const results: { readonly result: Result; readonly mode: string; readonly failed: boolean }[] = [];
  const settleMs = 20_000 / timesDividedBy + 5_000;
  let cluster: Cluster | undefined;
  try {
    cluster = await Cluster.start(folder, (await createTestDatabase()).url, nodes, seed);
    const random = new Random(seed);
    const end = Date.now() + minutes * 60_000;
    for (let [done, number] = [0, 0]; done < reads && Date.now() < end; number++) {
      const mode = number % 2 === 0 ? 'reject' : 'allow';
      const weather = storm(nodes, 30_000, timesDividedBy, random.pick([1, 3, 10]));
      const result = await runRound(cluster, {
        ...{ seed: random.between(0, 2 ** 31), degradedWrites: mode, weather, settleMs },
        ...{ readers: random.between(20, 250), writers: random.between(1, 6), writeRestMs: random.between(2, 40) },
      });
      done += result.reads;
      const failed = result.violations.length > 0 || result.settledMs === Infinity;
      results.push({ result, mode, failed });
      console.log(`${failed ? 'FAIL' : 'ok  '} round ${number} (${mode}, seed ${result.seed}): ${done} reads so far`);
      for (const line of summary([result])) console.log(`       ${line}`);
      for (const line of [...result.unsettled.slice(0, 5), ...result.slices]) console.log(line);
    }
  } finally {
    await cluster?.stop();
    await server.stop();
  }
  for (const mode of ['reject', 'allow']) {
    const own = results.filter((it) => it.mode === mode).map(({ result }) => result);
    if (own.length > 0) console.log([`CACHE_DEGRADED_WRITES=${mode}:`, ...summary(own)].join('\n  '));
  }
  const failed = results.filter((it) => it.failed).length;
  console.log(`${results.length - failed} passed, ${failed} failed`);
  return failed;
}
