/** One service over a given number of orders, and the requests for pages of them. */
import pg from 'pg';
import { DEFAULT_LIMIT, encodeCursor, type Keyset } from '../../../src/platform/http/pagination.js';
import { startApp, type TestApp } from '../../support/app.js';
import { logInAsAdmin, registerUser, type TestUser } from '../../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { timeOf } from '../rounds.js';
import { LIST_KINDS, type ListKind } from './list-kinds.js';
import { CUSTOMER_COUNT, DAYS, loadOrders } from './load-orders.js';

/** Different requests of a kind: other customers, spans and depths. They repeat. */
export const VARIANTS = 50;

const DAY_MS = 86_400_000;
/** The fractional part of the golden ratio: its multiples, modulo 1, are spread evenly. */
const GOLDEN_RATIO = 0.618_034;

const SELECT_POSITION = `
  SELECT id, created_at AS "createdAt"
    FROM orders
   WHERE user_id = coalesce($1, user_id)
     AND status = coalesce($2, status)
     AND created_at <= $3
   ORDER BY created_at DESC
   LIMIT 1`;

interface PageRequest {
  readonly path: string;
  readonly token: string;
}

export class ListedService {
  private readonly requests = new Map<ListKind, PageRequest[]>();

  private constructor(
    private readonly database: TestDatabase,
    private readonly app: TestApp,
    private readonly customers: readonly TestUser[],
    private readonly adminToken: string,
    /** How long loading the orders took. */
    readonly loadingSeconds: number,
  ) {}

  static async start(orders: number): Promise<ListedService> {
    const database = await createTestDatabase();
    const app = await startApp({}, database.url);
    const customers: TestUser[] = [];
    while (customers.length < CUSTOMER_COUNT) customers.push(await registerUser(app));
    const customerIds = customers.map(({ id }) => id);
    const loadingSeconds = await loadOrders(database.url, orders, customerIds);
    const adminToken = await logInAsAdmin(app);
    const service = new ListedService(database, app, customers, adminToken, loadingSeconds);
    await service.prepareRequests();
    return service;
  }

  async close(): Promise<void> {
    await this.app.close();
    await this.database.drop();
  }

  /**
   * Requests one page.
   * @returns milliseconds
   * @throws Error when it is not a full page
   */
  async timePage(kind: ListKind, number: number): Promise<number> {
    const { path, token } = this.requests.get(kind)?.[number % VARIANTS] as PageRequest;
    let status = 0;
    let found: number | undefined;
    const took = await timeOf(async () => {
      const reply = await this.app.call('GET', path, { token });
      status = reply.status;
      found = (reply.body as { data?: unknown[] }).data?.length;
    });
    if (status !== 200 || found !== DEFAULT_LIMIT) {
      throw new Error(`${kind.name}, ${path}: status ${status}, ${found} orders`);
    }
    return took;
  }

  private async prepareRequests(): Promise<void> {
    const client = new pg.Client({ connectionString: this.database.url });
    await client.connect();
    try {
      for (const kind of LIST_KINDS) {
        const requests: PageRequest[] = [];
        for (let variant = 0; variant < VARIANTS; variant++) {
          requests.push(await this.requestOf(client, kind, variant));
        }
        this.requests.set(kind, requests);
      }
    } finally {
      await client.end();
    }
  }

  private async requestOf(
    client: pg.Client,
    { view, filters, isDeep }: ListKind,
    variant: number,
  ): Promise<PageRequest> {
    const position = (variant * GOLDEN_RATIO) % 1;
    const customer = this.customers[variant % CUSTOMER_COUNT] as TestUser;
    const { status, createdFrom, createdTo } = filters?.(position) ?? {};
    const query = new URLSearchParams();
    if (status !== undefined) query.set('status', status);
    if (createdFrom !== undefined) query.set('createdFrom', daysAgo(createdFrom));
    if (createdTo !== undefined) query.set('createdTo', daysAgo(createdTo));
    if (isDeep) {
      const ownerId = view === 'all orders' ? null : customer.id;
      const before = daysAgo(DAYS * (0.1 + position / 2));
      const parameters = [ownerId, status ?? null, before];
      const { rows } = await client.query<Keyset>(SELECT_POSITION, parameters);
      query.set('cursor', encodeCursor(rows[0] as Keyset, [ownerId, status ?? null, null, null]));
    }
    const isOfOneUser = view === 'orders of one user';
    const path = isOfOneUser ? `/v1/users/${customer.id}/orders` : '/v1/orders';
    const token = view === 'own orders' ? customer.token : this.adminToken;
    return { path: `${path}?${query.toString()}`, token };
  }
}

const daysAgo = (days: number): string => new Date(Date.now() - days * DAY_MS).toISOString();
