/**
 * `npm run bench:lists -- [--orders 1000000] [--few 1000] [--rounds 40]`: what a page of orders takes where there are many beside
 * where there are few: two services in this process, each on a database of its own of one PostgreSQL, asked in turns over HTTP.
 * Every page is full on both sides, so that they differ in nothing but how many orders there are. Writes docs/bench/lists.md.
 */
import 'reflect-metadata';
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { mkdir, writeFile } from 'node:fs/promises';
import pg from 'pg';
import { format, resolveConfig } from 'prettier';
import { migrateDatabase } from '../../../src/database/migrate.js';
import { DEFAULT_LIMIT, encodeCursor } from '../../../src/http/pagination.js';
import { startApp, type TestApp } from '../../support/app.js';
import { adminToken, person, type Person } from '../../support/factories.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { machine } from '../machine.js';
import { CUSTOMERS, DAYS, loadOrders } from './orders.js';

const PAGE = 'docs/bench/lists.md';
/** The 95th percentile with many orders over that with few. */
const AIM = 1.3;
/** Requests of each kind to each service in a round. */
const EACH = 30;
/** Different requests of a kind: other customers, times and depths, which come again and again. */
const VARIANTS = 50;

interface Filters {
  readonly status?: string;
  /** Days ago. */
  readonly from?: number;
  readonly to?: number;
}

interface Kind {
  readonly name: string;
  readonly by: 'customer' | 'admin' | 'admin, of one user';
  readonly filters?: (share: number) => Filters;
  readonly deep?: boolean;
}

const KINDS: readonly Kind[] = [
  { name: 'my own, the newest (cached)', by: 'customer' },
  { name: 'my own, deep', by: 'customer', deep: true },
  { name: 'my own, delivered', by: 'customer', filters: () => ({ status: 'delivered' }) },
  {
    name: 'my own, delivered, deep',
    by: 'customer',
    filters: () => ({ status: 'delivered' }),
    deep: true,
  },
  { name: 'my own, of 80 days', by: 'customer', filters: (share) => eightyDays(90 * share) },
  {
    name: 'my own, delivered, of 80 days',
    by: 'customer',
    filters: (share) => ({ status: 'delivered', ...eightyDays(20 + 70 * share) }),
  },
  { name: 'all, the newest', by: 'admin' },
  { name: 'all, deep', by: 'admin', deep: true },
  { name: 'all, delivered', by: 'admin', filters: () => ({ status: 'delivered' }) },
  {
    name: 'all, delivered, deep',
    by: 'admin',
    filters: () => ({ status: 'delivered' }),
    deep: true,
  },
  { name: 'all, of 80 days', by: 'admin', filters: (share) => eightyDays(90 * share) },
  {
    name: 'all, cancelled, of 80 days',
    by: 'admin',
    filters: (share) => ({ status: 'cancelled', ...eightyDays(20 + 70 * share) }),
  },
  {
    name: "one user's, delivered",
    by: 'admin, of one user',
    filters: () => ({ status: 'delivered' }),
  },
];

const eightyDays = (to: number): Filters => ({ from: to + 80, to });
const daysAgo = (days: number): string => new Date(Date.now() - days * 86_400_000).toISOString();
const percentile = (all: readonly number[], share: number): number =>
  all.toSorted((a, b) => a - b)[Math.ceil(share * all.length) - 1] ?? NaN;

interface Request {
  readonly path: string;
  readonly token: string;
}

/** One service over so many orders. */
class Service {
  private constructor(
    readonly app: TestApp,
    readonly loading: number,
    private readonly customers: readonly Person[],
    private readonly admin: string,
    private readonly requests: Map<Kind, Request[]> = new Map(),
  ) {}

  static async start(orders: number, closing: (() => Promise<unknown>)[]): Promise<Service> {
    const database = await createTestDatabase();
    closing.unshift(() => database.drop());
    const app = await startApp({}, database.url);
    closing.unshift(() => app.close());
    const customers: Person[] = [];
    for (let number = 0; number < CUSTOMERS; number++) customers.push(await person(app));
    const loading = await loadOrders(
      database.url,
      orders,
      customers.map(({ id }) => id),
    );
    return new Service(app, loading, customers, await adminToken(app));
  }

  async prepare(): Promise<void> {
    const psql = new pg.Client({ connectionString: this.app.databaseUrl });
    await psql.connect();
    try {
      for (const kind of KINDS) {
        const requests: Request[] = [];
        for (let number = 0; number < VARIANTS; number++)
          requests.push(await this.request(psql, kind, number));
        this.requests.set(kind, requests);
      }
    } finally {
      await psql.end();
    }
  }

  private async request(
    psql: pg.Client,
    { by, filters, deep }: Kind,
    number: number,
  ): Promise<Request> {
    // Spread evenly, with no two alike.
    const share = (number * 0.618_034) % 1;
    const customer = this.customers[number % CUSTOMERS] as Person;
    const { status, from, to } = filters?.(share) ?? {};
    const createdFrom = from === undefined ? undefined : daysAgo(from);
    const createdTo = to === undefined ? undefined : daysAgo(to);
    const owner = by === 'admin' ? undefined : customer.id;
    const query = new URLSearchParams({
      ...(status && { status }),
      ...(createdFrom && { createdFrom }),
      ...(createdTo && { createdTo }),
    });
    if (deep) {
      const { rows } = await psql.query<{ id: string; createdAt: Date }>(
        `SELECT id, created_at AS "createdAt" FROM orders
          WHERE user_id = coalesce($1, user_id) AND status = coalesce($2, status) AND created_at <= $3 ORDER BY created_at DESC LIMIT 1`,
        [owner, status, daysAgo(DAYS * (0.1 + share / 2))],
      );
      query.set(
        'cursor',
        encodeCursor(rows[0] as { id: string; createdAt: Date }, [
          owner ?? null,
          status ?? null,
          null,
          null,
        ]),
      );
    }
    const path = by === 'admin, of one user' ? `/v1/users/${customer.id}/orders` : '/v1/orders';
    return {
      path: `${path}?${query.toString()}`,
      token: by === 'customer' ? customer.token : this.admin,
    };
  }

  /** Milliseconds. @throws when it is not a full page */
  async ask(kind: Kind, number: number): Promise<number> {
    const { path, token } = this.requests.get(kind)?.[number % VARIANTS] as Request;
    const began = performance.now();
    const { status, body, text } = await this.app.call('GET', path, { token });
    const took = performance.now() - began;
    const { data } = body as { data: unknown[] };
    if (status !== 200 || data.length !== DEFAULT_LIMIT)
      throw new Error(`${kind.name}, ${path}: ${status}, ${data?.length ?? text} orders`);
    return took;
  }
}

const number = (value: number) => ({ type: 'string' as const, default: String(value) });
const { values } = parseArgs({
  options: { orders: number(1_000_000), few: number(1_000), rounds: number(40) },
});
const [orders, few, rounds] = [Number(values.orders), Number(values.few), Number(values.rounds)];

const postgres = await startSharedPostgres(migrateDatabase);
process.env.TEST_POSTGRES_URL = postgres.url;
const closing: (() => Promise<unknown>)[] = [];
try {
  const where = await machine(postgres.url);
  console.log(`${where}\nloading ${orders} orders ...`);
  const small = await Service.start(few, closing);
  const large = await Service.start(orders, closing);
  for (const service of [small, large]) await service.prepare();
  console.log(`loaded in ${large.loading.toFixed(0)} s, warming both ...`);
  for (const kind of KINDS)
    for (let turn = 0; turn < 2 * VARIANTS; turn++)
      for (const service of [small, large]) await service.ask(kind, turn);

  console.log('measuring ...');
  const took = new Map(
    KINDS.map((kind) => [kind, { small: [] as number[], large: [] as number[] }]),
  );
  for (let round = 0; round < rounds; round++)
    for (const [kind, { small: ofSmall, large: ofLarge }] of took)
      for (let turn = 0; turn < EACH; turn++) {
        const ask = async (service: Service, into: number[]) =>
          into.push(await service.ask(kind, round * EACH + turn));
        if (turn % 2 === 0) await ask(small, ofSmall);
        await ask(large, ofLarge);
        if (turn % 2 === 1) await ask(small, ofSmall);
      }

  const all = [...took.values()];
  const total = { small: all.flatMap((one) => one.small), large: all.flatMap((one) => one.large) };
  const ratioOf = (one: typeof total): number =>
    percentile(one.large, 0.95) / percentile(one.small, 0.95);
  const ms = (list: readonly number[], share: number): string => percentile(list, share).toFixed(2);
  const line = (name: string, one: typeof total): string =>
    `| ${[name, ms(one.small, 0.5), ms(one.large, 0.5), ms(one.small, 0.95), ms(one.large, 0.95), ratioOf(one).toFixed(2)].join(' | ')} |`;
  const over = [...took].filter(([, one]) => ratioOf(one) > AIM).map(([{ name }]) => name);
  const page = `# Pages of many orders

\`npm run bench:lists -- --orders ${orders} --few ${few} --rounds ${rounds}\`, ${new Date().toISOString().slice(0, 10)}

${where}, ${loadavg()[0]?.toFixed(1)} at its end.

The 95th percentile of a page of ${DEFAULT_LIMIT} orders with ${orders} orders is **${ratioOf(total).toFixed(2)} times** that with ${few}, over all kinds of
lists together; the aim is at most ${AIM}${ratioOf(total) <= AIM ? '' : ', **missed**'}. ${over.length > 0 ? `Taken alone these are over it: ${over.join('; ')}.` : 'So is each kind alone.'}

| list | p50 ms, ${few} | p50 ms, ${orders} | p95 ms, ${few} | p95 ms, ${orders} | p95, ratio |
| :-- | --: | --: | --: | --: | --: |
${[...took].map(([{ name }, one]) => line(name, one)).join('\n')}
${line('**all of them**', total)}

- ${rounds * EACH} pages of each kind from each service, one at a time, in turns, over real HTTP; ${VARIANTS} different ones of a kind (customers, times,
  depths), each fetched twice before. Both services, their client and one PostgreSQL (64 MiB of shared buffers) share the machine and a
  process, so the ratios count and not the times.
- Loaded in ${large.loading.toFixed(0)} s: users and the rows of \`orders\`, which every CHECK of the schema has looked at, and ANALYZE. Not loaded: events, which no
  list reads. Five customers have a tenth of all orders each and are those who list; the newest tenth of the orders is placed, paid or
  shipped, the rest is delivered (three in four), cancelled or refunded; ${DAYS} days, newer rows behind older ones.
`;
  console.log(`\n${page}`);
  await mkdir('docs/bench', { recursive: true });
  await writeFile(PAGE, await format(page, { ...(await resolveConfig(PAGE)), filepath: PAGE }));
} finally {
  for (const close of closing) await close();
  await postgres.stop();
}
process.exit();
