/**
 * What a page of orders takes where there are many orders, beside where there are few: two services
 * in this process, each on a database of its own, asked in turn over HTTP. Every page is full on
 * both sides, so that only the number of orders differs.
 */
import 'reflect-metadata';
import { loadavg } from 'node:os';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { DEFAULT_LIMIT } from '../../../src/platform/http/pagination.js';
import { percentile } from '../../support/percentile.js';
import { startSharedPostgres } from '../../support/postgres.js';
import { callOf, parseNumbers, usageOf } from '../../support/program-table.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { LIST_KINDS, type ListKind } from './list-kinds.js';
import { ListedService, VARIANTS } from './listed-service.js';
import { CUSTOMER_COUNT, DAYS } from './load-orders.js';

const DEFAULTS = { orders: 1_000_000, few: 1_000, rounds: 40 } as const;
type Options = Record<keyof typeof DEFAULTS, number>;

const CALL = 'npm run bench -- lists';
export const USAGE = usageOf(CALL, DEFAULTS);

/** The goal: the 95th percentile with many orders over that with few. */
const MAX_RATIO = 1.3;
/** Pages of each kind from each service in a round. */
const PAGES_A_ROUND = 30;

/** Milliseconds of each page. */
interface Times {
  readonly few: number[];
  readonly many: number[];
}

export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, DEFAULTS);
  const postgres = await startSharedPostgres(migrateDatabase);
  process.env.TEST_POSTGRES_URL = postgres.url;
  const services: ListedService[] = [];
  try {
    const where = await describeMachine(postgres.url);
    console.log(`${where}\nLoading ${options.few} and ${options.orders} orders ...`);
    const few = await ListedService.start(options.few);
    services.push(few);
    const many = await ListedService.start(options.orders);
    services.push(many);
    console.log(`Loaded in ${many.loadingSeconds.toFixed(0)} s. Warming up ...`);
    await warmUp(services);
    console.log('Measuring ...');
    const times = await measure(few, many, options.rounds);
    await writePage('lists', pageOf(times, options, where, many.loadingSeconds));
  } finally {
    for (const service of services) await service.close();
    await postgres.stop();
  }
  return 0;
}

/** Fetches every variant of every kind twice. */
async function warmUp(services: readonly ListedService[]): Promise<void> {
  for (const kind of LIST_KINDS) {
    for (let number = 0; number < 2 * VARIANTS; number++) {
      for (const service of services) await service.timePage(kind, number);
    }
  }
}

async function measure(
  few: ListedService,
  many: ListedService,
  rounds: number,
): Promise<Map<ListKind, Times>> {
  const times = new Map<ListKind, Times>(LIST_KINDS.map((kind) => [kind, { few: [], many: [] }]));
  for (let round = 0; round < rounds; round++) {
    for (const [kind, taken] of times) {
      for (let page = 0; page < PAGES_A_ROUND; page++) {
        await measurePair(few, many, kind, round * PAGES_A_ROUND + page, taken);
      }
    }
  }
  return times;
}

/** One page of each service. Which one is asked first alternates. */
async function measurePair(
  few: ListedService,
  many: ListedService,
  kind: ListKind,
  number: number,
  times: Times,
): Promise<void> {
  if (number % 2 === 0) times.few.push(await few.timePage(kind, number));
  times.many.push(await many.timePage(kind, number));
  if (number % 2 === 1) times.few.push(await few.timePage(kind, number));
}

const ratioOf = ({ few, many }: Times): number => percentile(many, 0.95) / percentile(few, 0.95);

function pageOf(
  times: ReadonlyMap<ListKind, Times>,
  options: Options,
  where: string,
  loadingSeconds: number,
): string {
  const { orders, few, rounds } = options;
  const total: Times = {
    few: [...times.values()].flatMap((taken) => taken.few),
    many: [...times.values()].flatMap((taken) => taken.many),
  };
  const row = (name: string, taken: Times): string[] => {
    const p50s = [taken.few, taken.many].map((list) => percentile(list, 0.5).toFixed(2));
    const p95s = [taken.few, taken.many].map((list) => percentile(list, 0.95).toFixed(2));
    return [name, ...p50s, ...p95s, ratioOf(taken).toFixed(2)];
  };
  const slow = [...times].filter(([, taken]) => ratioOf(taken) > MAX_RATIO);
  const isMissed = ratioOf(total) > MAX_RATIO;
  const slowNames = slow.map(([{ name }]) => name).join('; ');
  const head = [
    'list',
    `p50 ms, ${few}`,
    `p50 ms, ${orders}`,
    `p95 ms, ${few}`,
    `p95 ms, ${orders}`,
    'p95, ratio',
  ];
  const rows = [...times].map(([{ name }, taken]) => row(name, taken));
  return `# Pages of many orders

\`${callOf(CALL, options)}\`, ${new Date().toISOString().slice(0, 10)}

${where}, ${loadavg()[0]?.toFixed(1)} at its end.

With ${orders} orders the 95th percentile of a page of ${DEFAULT_LIMIT} orders is
**${ratioOf(total).toFixed(2)} times** that with ${few}, over all kinds of lists together. The goal
is at most ${MAX_RATIO}${isMissed ? ': **missed**' : ''}.
${slow.length > 0 ? `These kinds alone exceed it: ${slowNames}.` : 'Each kind alone meets it too.'}

${markdownTable(head, [...rows, row('**all kinds**', total)])}

- Each service was asked for ${rounds * PAGES_A_ROUND} pages of each kind, one at a time, in turn,
  over HTTP.
- A kind has ${VARIANTS} different requests (customers, times, depths). Each was sent twice before
  the measurement.
- Both services, their client and one PostgreSQL (64 MiB of shared buffers) share the machine and a
  process, so the ratios count and not the times.
- Loading took ${loadingSeconds.toFixed(0)} s: users and the rows of \`orders\`, checked by every
  CHECK of the schema, and ANALYZE. Events are not loaded: no list reads them.
- ${CUSTOMER_COUNT} customers own a tenth of all orders each; they are the ones who list. The newest
  tenth of the orders is placed, paid or shipped. Of the rest three in four are delivered, the
  others cancelled or refunded. They span ${DAYS} days.
`;
}
