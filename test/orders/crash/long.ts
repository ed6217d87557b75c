/**
 * The crashes' long form: a PostgreSQL of its own that keeps what it commits, a RabbitMQ that gets every event, many deaths, of
 * the relay too, and the figures as Markdown.
 */
import { migrateDatabase } from '../../../src/database/migrate.js';
import { Random } from '../../campaign/random.js';
import { type Arrivals, bindQueue, judgeArrivals } from '../../outbox/arrivals.js';
import { startTestPostgres } from '../../support/postgres.js';
import { type RabbitServer, startRabbit } from '../../support/rabbitmq.js';
import { RULES } from './audit.js';
import { deathsOf, type Result, Shop } from './crashes.js';
import { RELAY_STEPS, STEPS } from './steps.js';

const ALL_STEPS = [...STEPS, ...RELAY_STEPS];

export interface LongOptions {
  readonly folder: string;
  readonly crashes: number;
  readonly seed: number;
}

/** @returns the report, and whether anything was found */
export async function runLong({
  folder,
  crashes,
  seed,
}: LongOptions): Promise<{ report: string; failed: boolean }> {
  console.log(`orders: ${crashes} crashes, seed ${seed}`);
  const postgres = await startTestPostgres([
    'fsync=on',
    'synchronous_commit=on',
    'full_page_writes=on',
  ]);
  let rabbit: RabbitServer | undefined;
  let shop: Shop | undefined;
  try {
    [rabbit] = await Promise.all([startRabbit(), migrateDatabase(postgres.url)]);
    await bindQueue(rabbit);
    shop = await Shop.open(folder, postgres.url, rabbit);
    const result = await shop.round(seed, deathsOf(crashes, new Random(seed), ALL_STEPS));
    console.log(`${((60 * crashes) / result.seconds).toFixed(1)} crashes a minute`);
    const arrivals = await judgeArrivals(shop.database, rabbit);
    for (const fault of result.faults) console.log(`FAULT ${fault}`);
    for (const { rule, what } of result.violations) console.log(`VIOLATION ${rule}: ${what}`);
    for (const fault of ['lost', 'invented', 'outOfOrder'] as const)
      for (const id of arrivals[fault]) console.log(`ARRIVALS ${fault}: ${id}`);
    const { lost, invented, outOfOrder, astray } = arrivals;
    const wrong = [result.faults, result.violations, lost, invented, outOfOrder].some(
      (found) => found.length > 0,
    );
    return { report: reportOf(result, arrivals, crashes, seed), failed: wrong || astray > 0 };
  } finally {
    await shop?.close();
    await rabbit?.stop();
    await postgres.stop();
  }
}

function reportOf(
  { crashes: happened, orders, events, counts, faults, violations, seconds }: Result,
  arrivals: Arrivals,
  crashes: number,
  seed: number,
): string {
  const count = (...rules: (typeof RULES)[number][]): number =>
    violations.filter(({ rule }) => rules.includes(rule)).length;
  const total = Object.values(happened).reduce((sum, times) => sum + times, 0);
  return `# Orders and crashes

\`npm run test:orders -- --crashes ${crashes} --seed ${seed}\`: two nodes of the built service over one PostgreSQL (with fsync), one
Redis and one RabbitMQ. Each kills itself with SIGKILL at a step of a write or of the relay, comes back, and dies again, often both at once; six customers place,
change and pay orders all the while, send each keyed request again until it is answered, to the other node, and one in three to both
nodes at once. At the end every key is sent once more to both nodes, and an audit reads the database; when the
outbox is empty, another reads a queue that is bound to every event.

|                                                   |      |
| ------------------------------------------------- | ---: |
| crashes injected                                  | ${total} |
| orders audited                                    | ${orders} |
| events audited                                    | ${events} |
| requests sent                                     | ${counts.sent} |
| requests without an answer                        | ${counts.unanswered} |
| repetitions answered with the first one's bytes   | ${counts.replayed} |
| orders lost                                       | ${count('acknowledged and there')} |
| orders doubled                                    | ${count('one order for a key')} |
| keys with two answers, or without the answer kept | ${count('the same bytes again', 'the key’s row is the answer')} |
| gaps in events, or differences in the outbox      | ${count('events 1 to n', 'the outbox tells each event, in order')} |
| projections that are not their replay             | ${count('the projection is the replay')} |
| keys stuck in flight                              | ${count('no key in flight')} |
| answers that no client should get                 | ${faults.length} |
| events published, of orders, users and sessions   | ${arrivals.written} |
| messages in the queue                             | ${arrivals.arrivals} |
| of them repeats (same id)                         | ${arrivals.repeats} |
| events lost                                       | ${arrivals.lost.length} |
| events out of order within their aggregate        | ${arrivals.outOfOrder.length} |
| not in \`order_events\`, or only there            | ${arrivals.astray} |
| seconds until the outbox was empty                | ${arrivals.drainSeconds.toFixed(1)} |
| seconds                                           | ${seconds.toFixed(0)} |

| a node died | times |
| --- | ---: |
${ALL_STEPS.map((step) => `| ${step} | ${happened[step] ?? 0} |`).join('\n')}
`;
}
