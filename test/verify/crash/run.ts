/**
 * `npm run verify -- crash`: many crashes, of the relay too, on a PostgreSQL that keeps what it
 * commits and a RabbitMQ that gets every event. Writes docs/benchmarks/orders.md.
 */
import { fileURLToPath } from 'node:url';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { writePage } from '../../bench/page.js';
import { startTestPostgres } from '../../support/postgres.js';
import { newSeed, parseNumbers } from '../../support/program-table.js';
import { type RabbitmqServer, startRabbitmq } from '../../support/rabbitmq.js';
import { Random } from '../../support/random.js';
import { type Arrivals, bindArrivalsQueue, judgeArrivals } from '../relay/arrivals.js';
import { chooseDeaths, CrashCluster, type RoundResult } from './crash-cluster.js';
import { renderPage } from './page.js';
import { ALL_STEPS } from './steps.js';

export const USAGE = `npm run verify -- crash [options]
  --crashes   how often a node dies (60)
  --seed      decides the steps at which nodes die`;

/** The root of the compiled copy in which this file runs. */
const COMPILED_FOLDER = fileURLToPath(new URL('../../../', import.meta.url));
const DURABLE = ['fsync=on', 'synchronous_commit=on', 'full_page_writes=on'];

/** @returns 1 when an audit found a violation */
export async function run(argv: string[]): Promise<number> {
  const { crashes, seed } = parseNumbers(argv, USAGE, { crashes: 60, seed: newSeed() });
  console.log(`${crashes} crashes, seed ${seed}`);
  const postgres = await startTestPostgres(DURABLE);
  let rabbitmq: RabbitmqServer | undefined;
  let cluster: CrashCluster | undefined;
  try {
    await migrateDatabase(postgres.url);
    rabbitmq = await startRabbitmq();
    await bindArrivalsQueue(rabbitmq);
    cluster = await CrashCluster.start(COMPILED_FOLDER, postgres.url, rabbitmq);
    const random = new Random(seed);
    const deaths = chooseDeaths(crashes, ALL_STEPS, random.fork('deaths'));
    const result = await cluster.runRound({ random, name: `seed ${seed}`, deaths });
    const arrivals = await judgeArrivals(cluster.database, rabbitmq);
    const findings = findingsOf(result, arrivals);
    for (const finding of findings) console.error(finding);
    if (findings.length > 0) return 1;
    const command = `npm run verify -- crash --crashes ${crashes} --seed ${seed}`;
    await writePage('orders', renderPage(command, result, arrivals));
    return 0;
  } finally {
    await cluster?.stop();
    await rabbitmq?.stop();
    await postgres.stop();
  }
}

/** One line for each violation. */
function findingsOf({ problems, violations }: RoundResult, arrivals: Arrivals): string[] {
  const { lost, invented, outOfOrder, unmatched } = arrivals;
  return [
    ...problems.map((problem) => `Unexpected answer: ${problem}`),
    ...violations.map(({ rule, details }) => `Violated "${rule}": ${details}`),
    ...lost.map((id) => `Event lost: ${id}`),
    ...invented.map((id) => `Event that nobody wrote: ${id}`),
    ...outOfOrder.map((id) => `Event out of order: ${id}`),
    ...(unmatched > 0 ? [`Events that do not match order_events: ${unmatched}`] : []),
  ];
}
