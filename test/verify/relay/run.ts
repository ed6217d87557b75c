/**
 * `npm run verify -- relay`: rounds of the campaign in which RabbitMQ is killed too, and the
 * throughput of one and two relays. Writes docs/benchmarks/relay.md.
 */
import { fileURLToPath } from 'node:url';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { describeMachine } from '../../bench/machine.js';
import { writePage } from '../../bench/page.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { newSeed, parseNumbers } from '../../support/program-table.js';
import { type RabbitmqServer, startRabbitmq } from '../../support/rabbitmq.js';
import { type CampaignResult, runCampaign } from './campaign.js';
import { renderPage } from './page.js';
import { measureTake, measureThroughput } from './throughput.js';

export const USAGE = `npm run verify -- relay [options]
  --orders   orders of each round (1000)
  --rounds   rounds, each with the next seed (1)
  --seed     repeats the faults of an earlier run
  --events   backlog of each measurement of the throughput (10000)`;

/** The root of the compiled copy in which this file runs. */
const COMPILED_FOLDER = fileURLToPath(new URL('../../../', import.meta.url));
/** Nodes of each measurement, alternating: what else the machine does slows both down. */
const THROUGHPUT_NODES = [1, 2, 1, 2] as const;

interface Options {
  readonly orders: number;
  readonly rounds: number;
  readonly seed: number;
  readonly events: number;
}

/** @returns 1 when an event was lost, invented, out of order, or not in `order_events` */
export async function run(argv: string[]): Promise<number> {
  const defaults = { orders: 1_000, rounds: 1, seed: newSeed(), events: 10_000 };
  const options = parseNumbers(argv, USAGE, defaults);
  const postgres = await startSharedPostgres(migrateDatabase);
  // createTestDatabase() creates its databases there.
  process.env.TEST_POSTGRES_URL = postgres.url;
  let rabbitmq: RabbitmqServer | undefined;
  try {
    const machine = await describeMachine(postgres.url);
    rabbitmq = await startRabbitmq();
    const results = await runRounds(options, rabbitmq);
    if (!results.every(isCorrect)) return 1;
    const throughput: { nodes: number; perSecond: number }[] = [];
    for (const nodes of THROUGHPUT_NODES) {
      const perSecond = await measureThroughput(COMPILED_FOLDER, rabbitmq, nodes, options.events);
      console.log(`${nodes} nodes: ${Math.round(perSecond)} events a second`);
      throughput.push({ nodes, perSecond });
    }
    const take = await measureTake();
    const command = `npm run verify -- relay ${toArguments(options)}`;
    const { events } = options;
    const page = renderPage({ command, machine, results, events, throughput, take });
    await writePage('relay', page);
    return 0;
  } finally {
    await rabbitmq?.stop();
    await postgres.stop();
  }
}

async function runRounds(options: Options, rabbitmq: RabbitmqServer): Promise<CampaignResult[]> {
  const results: CampaignResult[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const seed = options.seed + round;
    const database = await createTestDatabase();
    const result = await runCampaign({
      folder: COMPILED_FOLDER,
      databaseUrl: database.url,
      rabbitmq,
      orders: options.orders,
      seed,
      restartsRabbitmq: true,
    });
    await database.drop();
    console.log(JSON.stringify({ seed, ...result }));
    results.push(result);
  }
  return results;
}

const isCorrect = ({ lost, invented, outOfOrder, unmatched }: CampaignResult): boolean =>
  lost.length + invented.length + outOfOrder.length + unmatched === 0;

const toArguments = (options: Options): string =>
  Object.entries(options)
    .map(([name, value]) => `--${name} ${value}`)
    .join(' ');
