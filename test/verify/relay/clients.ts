/** Clients that place orders over HTTP, and pay, ship or cancel them, on nodes that may be down. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ADMIN } from '../../support/app.js';
import { ORDER, PASSWORD } from '../../support/factories.js';
import { type Reply, type RequestOptions, sendRequest } from '../../support/http-client.js';
import type { Random } from '../../support/random.js';
import type { Progress } from './faults.js';
import type { ServiceNode } from './service-node.js';

const CLIENTS = 12;
const MAX_ATTEMPTS = 200;

/** What happens to an order after it was placed. */
const ORDER_HISTORIES: readonly (readonly string[])[] = [
  [],
  ['pay'],
  ['cancel'],
  ['pay', 'ship'],
  ['pay', 'ship', 'deliver', 'refund'],
];
const OWNER_ACTIONS = new Set(['pay', 'cancel']);

export class Clients {
  private startedOrders = 0;

  constructor(
    private readonly nodes: readonly ServiceNode[],
    private readonly progress: Progress,
    private readonly random: Random,
  ) {}

  /** Resolves when every order is placed. @throws Error when no node answers a request */
  async placeOrders(): Promise<void> {
    const username = `driver-${randomUUID().slice(0, 8)}`;
    const admin = await this.logIn(ADMIN.username, ADMIN.password);
    await this.send(this.random, 'POST', '/v1/users', {
      body: { username, email: `${username}@example.com`, password: PASSWORD },
    });
    const owner = await this.logIn(username, PASSWORD);
    const clients = Array.from({ length: CLIENTS }, (_, index) =>
      this.runClient(this.random.fork(`client ${index}`), { owner, admin }),
    );
    await Promise.all(clients);
  }

  private async runClient(
    random: Random,
    tokens: { readonly owner: string; readonly admin: string },
  ): Promise<void> {
    while (this.startedOrders < this.progress.totalOrders) {
      this.startedOrders++;
      const placed = await this.send(random, 'POST', '/v1/orders', {
        token: tokens.owner,
        body: ORDER,
        headers: { 'Idempotency-Key': randomUUID() },
      });
      if (placed.status !== 201) {
        throw new Error(`POST /v1/orders: ${placed.status} ${placed.text}`);
      }
      for (const action of random.pick(ORDER_HISTORIES)) {
        const token = OWNER_ACTIONS.has(action) ? tokens.owner : tokens.admin;
        // 409 is as good as 200: a node that died may have done it without an answer.
        await this.send(random, 'POST', `/v1/orders/${placed.body.id}/${action}`, {
          token,
          body: {},
        });
      }
      this.progress.placedOrders++;
    }
  }

  private async logIn(username: string, password: string): Promise<string> {
    const { body } = await this.send(this.random, 'POST', '/v1/sessions', {
      body: { username, password },
    });
    return body.token as string;
  }

  /** Sends the request to nodes at random until one answers it. */
  private async send(
    random: Random,
    method: string,
    path: string,
    options: RequestOptions,
  ): Promise<Reply> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const { url } = random.pick(this.nodes);
      const reply = await sendRequest(url + path, method, options).catch(() => undefined);
      const isAnswered = reply !== undefined && reply.status < 500 && reply.status !== 429;
      if (isAnswered) return reply;
      await sleep(random.between(20, 100));
    }
    throw new Error(`${method} ${path}: no node answered ${MAX_ATTEMPTS} attempts`);
  }
}
