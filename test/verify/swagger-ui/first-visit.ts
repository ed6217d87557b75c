/** What a first visitor does in Swagger UI. Each step goes on from the one before. */
import type { Locator } from 'playwright-core';
import type { BrowserSession } from './browser-session.js';
import {
  authorize,
  execute,
  fillParameter,
  openOperation,
  type ShownResponse,
} from './swagger-page.js';

export interface Step {
  readonly name: string;
  readonly act: () => Promise<void>;
}

/** @throws Error that names what differs, with both values */
function expectEqual(actual: unknown, expected: unknown, what: string): void {
  if (actual === expected) return;
  throw new Error(`${what} is ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`);
}

interface Order {
  readonly id: string;
}

/** @param url of the service */
export function firstVisit(session: BrowserSession, url: string): Step[] {
  const visit = new FirstVisit(session, url);
  return [
    { name: 'Swagger UI opens at /docs/ and at /docs', act: () => visit.openDocs() },
    { name: 'a user registers with the example', act: () => visit.register() },
    { name: 'the user logs in with the example', act: () => visit.logIn() },
    { name: 'Authorize accepts the token', act: () => visit.authorize() },
    { name: 'the token survives a reload', act: () => visit.reload() },
    { name: 'an order is placed with the example and its key', act: () => visit.placeOrder() },
    { name: 'the same key again returns the same order', act: () => visit.repeatPlacing() },
    { name: 'the order is read', act: () => visit.readOrder() },
    { name: 'the second read comes from the cache', act: () => visit.readFromCache() },
    {
      name: 'the order is changed with the example and its If-Match',
      act: () => visit.changeOrder(),
    },
    { name: 'a read after the change returns the new order', act: () => visit.readChange() },
    { name: 'a list accepts an array parameter', act: () => visit.listOrders() },
    { name: 'the user logs out', act: () => visit.logOut() },
    { name: 'the token of the ended session is rejected', act: () => visit.readLoggedOut() },
    { name: 'the page of a problem opens', act: () => visit.openProblem() },
    { name: 'the browser reports no problem', act: () => visit.expectNoProblems() },
  ];
}

class FirstVisit {
  private username = '';
  private token = '';
  private order: Order = { id: '' };

  constructor(
    private readonly session: BrowserSession,
    private readonly url: string,
  ) {}

  async openDocs(): Promise<void> {
    const { page } = this.session;
    for (const path of ['/docs/', '/docs']) {
      await page.goto(this.url + path);
      await page.locator('.opblock').first().waitFor();
    }
    expectEqual(await page.title(), 'Holdfast API', 'the title');
    const tags: (string | null)[] = [];
    for (const tag of await page.locator('.opblock-tag').all()) {
      tags.push(await tag.getAttribute('data-tag'));
    }
    expectEqual(tags.join(), 'users,sessions,orders,health,operations', 'the tags');
  }

  async register(): Promise<void> {
    const { status, body } = await this.execute('users', 'register');
    expectEqual(status, 201, 'the status');
    this.username = body.username as string;
  }

  async logIn(): Promise<void> {
    const { status, body } = await this.execute('sessions', 'logIn');
    expectEqual(status, 201, 'the status');
    this.token = body.token as string;
  }

  authorize(): Promise<void> {
    return authorize(this.session.page, this.token);
  }

  async reload(): Promise<void> {
    const { page } = this.session;
    await page.reload();
    await page.locator('.auth-wrapper button.authorize.locked').waitFor();
    const { status, body } = await this.execute('users', 'getMe');
    expectEqual(status, 200, 'the status');
    expectEqual(body.username, this.username, 'the username');
  }

  async placeOrder(): Promise<void> {
    const { status, header, body } = await this.execute('orders', 'placeOrder');
    expectEqual(status, 201, 'the status');
    expectEqual(header('etag'), '"1"', 'the ETag');
    expectEqual(header('location'), `/v1/orders/${body.id}`, 'the Location');
    this.order = body as Order;
  }

  async repeatPlacing(): Promise<void> {
    const { status, header, body } = await this.execute('orders', 'placeOrder');
    expectEqual(status, 201, 'the status');
    expectEqual(header('idempotent-replayed'), 'true', 'Idempotent-Replayed');
    expectEqual(body.id, this.order.id, 'the id');
  }

  async readOrder(): Promise<void> {
    const block = await this.openWithOrderId('getOrder');
    const { status, header, body } = await execute(block);
    expectEqual(status, 200, 'the status');
    const cacheStatus = header('cache-status') ?? '';
    expectEqual(/^holdfast; (fwd|hit)/.test(cacheStatus), true, `Cache-Status: ${cacheStatus}`);
    expectEqual(JSON.stringify(body), JSON.stringify(this.order), 'the order');
  }

  async readFromCache(): Promise<void> {
    const { status, header } = await this.execute('orders', 'getOrder');
    expectEqual(status, 200, 'the status');
    expectEqual(header('cache-status'), 'holdfast; hit', 'Cache-Status');
  }

  async changeOrder(): Promise<void> {
    const block = await this.openWithOrderId('changeOrder');
    const { status, header } = await execute(block);
    expectEqual(status, 200, 'the status');
    expectEqual(header('etag'), '"2"', 'the ETag');
  }

  async readChange(): Promise<void> {
    const { status, body } = await this.execute('orders', 'getOrder');
    expectEqual(status, 200, 'the status');
    expectEqual(body.version, 2, 'the version');
  }

  async listOrders(): Promise<void> {
    const block = await openOperation(this.session.page, 'orders', 'listOrders');
    await fillParameter(block, 'limit', '');
    await block.locator('tr[data-param-name="ids"] button').click();
    await fillParameter(block, 'ids', this.order.id);
    const { status, body } = await execute(block);
    expectEqual(status, 200, 'the status');
    const [first] = body.data as Order[];
    expectEqual(first?.id, this.order.id, 'the first order');
  }

  async logOut(): Promise<void> {
    const { status } = await this.execute('sessions', 'logOut');
    expectEqual(status, 204, 'the status');
  }

  async readLoggedOut(): Promise<void> {
    const { status, header, body } = await this.execute('orders', 'getOrder');
    expectEqual(status, 401, 'the status');
    expectEqual(body.code, 'unauthenticated', 'the code');
    expectEqual(header('www-authenticate')?.startsWith('Bearer'), true, 'WWW-Authenticate');
  }

  async openProblem(): Promise<void> {
    const { page } = this.session;
    await page.goto(`${this.url}/problems/unauthenticated`);
    const heading = await page.locator('h1').innerText();
    expectEqual(heading, 'Authentication is required', 'the heading');
  }

  async expectNoProblems(): Promise<void> {
    expectEqual(this.session.problems.join('\n'), '', 'problems in the browser');
  }

  private async execute(tag: string, id: string): Promise<ShownResponse> {
    return execute(await openOperation(this.session.page, tag, id));
  }

  private async openWithOrderId(id: string): Promise<Locator> {
    const block = await openOperation(this.session.page, 'orders', id);
    await fillParameter(block, 'id', this.order.id);
    return block;
  }
}
