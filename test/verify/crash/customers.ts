/**
 * Customers as careful clients are: each request that changes something carries an Idempotency-Key and is sent again, to the
 * other node, until it has an answer; sometimes it goes to both at once. What they saw is what the audit judges.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../../campaign/random.js';
import { callUrl, type Reply } from '../../support/app.js';
import type { Node } from './node.js';

/** Every answer of success that one key got. */
export interface Keyed {
  readonly key: string;
  readonly path: string;
  readonly body: object;
  readonly answers: Set<string>;
}

/** One order, from its customer's side. */
export interface Purchase {
  /** The order's note, by which the audit finds it whatever the answers said. */
  readonly tag: string;
  readonly place: Keyed;
  readonly pay: Keyed | undefined;
}

/** At most so long between two orders: customers who never pause would take the processor from the nodes that come back. */
const PAUSE_MS = 100;
/** How long a customer goes on with one request. */
const PATIENCE_MS = 120_000;
/** Answers after which a client may send the same again. */
const AGAIN = new Set([
  '503 database-unavailable',
  '503 overloaded',
  '409 idempotency-key-in-flight',
]);

export class Customers {
  readonly purchases: Purchase[] = [];
  /** Answers that no client should ever get. */
  readonly faults: string[] = [];
  /** Requests sent; those that got no answer, since a node died. */
  readonly counts = { sent: 0, unanswered: 0, replayed: 0 };
  private over = false;
  private patienceMs = PATIENCE_MS;
  private running: Promise<void>[] = [];

  constructor(
    private readonly nodes: readonly Node[],
    private readonly token: string,
    private readonly random: Random,
    private readonly round: string,
  ) {}

  begin(count: number): void {
    this.running = Array.from({ length: count }, async (_, customer) => {
      for (let number = 0; !this.over; number++) {
        await this.buy(`${this.round} ${customer}-${number}`);
        await sleep(this.random.between(0, PAUSE_MS));
      }
    });
  }

  /** Each ends what it has begun. @param patienceMs how much longer it goes on with a request */
  async end(patienceMs = PATIENCE_MS): Promise<void> {
    this.over = true;
    this.patienceMs = patienceMs;
    await Promise.all(this.running);
  }

  /** Sends each key once more to each node that lives: the same answer, from both. */
  async repeatAll(): Promise<void> {
    const keyed = this.purchases.flatMap(({ place, pay }) => (pay ? [place, pay] : [place]));
    for (const node of this.nodes.filter(({ url }) => url !== undefined))
      for (let at = 0; at < keyed.length; at += 8)
        await Promise.all(keyed.slice(at, at + 8).map((one) => this.send(one, [node])));
  }

  private async buy(tag: string): Promise<void> {
    const item = {
      sku: `SKU-${tag.length}`,
      name: 'Rope',
      quantity: this.random.between(1, 9),
      unitPrice: 1_450,
    };
    const place = keyedOf('/v1/orders', { currency: 'EUR', items: [item], note: tag });
    const { id } = (await this.sendSomehow(place)) as { id?: string };
    if (id === undefined) return void this.purchases.push({ tag, place, pay: undefined });
    if (this.random.chance(0.5)) await this.change(id, { ...item, quantity: item.quantity + 1 });
    const pay = keyedOf(`/v1/orders/${id}/pay`, { reason: tag });
    await this.sendSomehow(pay);
    this.purchases.push({ tag, place, pay });
  }

  /** One node, or both at the same moment. */
  private async sendSomehow(keyed: Keyed): Promise<object> {
    const times = this.random.chance(0.3) ? 2 : 1;
    const first = this.random.between(0, this.nodes.length - 1);
    const ways = Array.from({ length: times }, (_, way) => this.inTurn(first + way));
    const [answer] = await Promise.all(ways.map((nodes) => this.send(keyed, nodes)));
    return answer as object;
  }

  /** A PATCH has no key: whoever got no answer reads what became of it. */
  private async change(id: string, item: object): Promise<void> {
    const path = `/v1/orders/${id}`;
    const changed = {
      method: 'PATCH',
      path,
      body: { items: [item] },
      headers: { 'If-Match': '"1"' },
    };
    for (let attempt = 0; attempt < 2; attempt++) {
      const reply = await this.once(this.random.pick(this.nodes), changed);
      if (reply?.status === 200) return;
      if (reply?.status === 412 && attempt > 0) return;
      if (reply && !AGAIN.has(told(reply)))
        return void this.faults.push(`PATCH ${path}: ${told(reply)}`);
    }
  }

  private inTurn(from: number): Node[] {
    return this.nodes.map((_, index) => this.nodes[(from + index) % this.nodes.length] as Node);
  }

  /** Sends until there is an answer, to these nodes in turn. @returns the body of the answer, empty when there was none */
  private async send(keyed: Keyed, nodes: readonly Node[]): Promise<object> {
    const { key, path, body, answers } = keyed;
    const request = { method: 'POST', path, body, headers: { 'Idempotency-Key': key } };
    const began = Date.now();
    for (let attempt = 0; Date.now() < began + this.patienceMs; attempt++) {
      const reply = await this.once(nodes[attempt % nodes.length] as Node, request);
      if (reply && reply.status < 300) {
        if (reply.headers.get('idempotent-replayed') === 'true') this.counts.replayed++;
        const headers = ['location', 'etag', 'content-type'].map((name) => reply.headers.get(name));
        answers.add(JSON.stringify([reply.status, reply.text, ...headers]));
        return reply.body as object;
      }
      if (reply && !AGAIN.has(told(reply))) {
        this.faults.push(`POST ${path} with key ${key}: ${told(reply)}`);
        return {};
      }
      await sleep(this.random.between(2, 30));
    }
    this.faults.push(`POST ${path} with key ${key}: no answer in ${Date.now() - began} ms`);
    return {};
  }

  /** Undefined when there is no answer. */
  private async once(
    { url }: Node,
    {
      method,
      path,
      body,
      headers,
    }: { method: string; path: string; body: object; headers: Record<string, string> },
  ): Promise<Reply | undefined> {
    if (url === undefined) return undefined;
    this.counts.sent++;
    return callUrl(url + path, method, { token: this.token, body, headers }).catch(() => {
      this.counts.unanswered++;
      return undefined;
    });
  }
}

const told = ({ status, body }: Reply): string =>
  `${status} ${String((body as { code?: string }).code)}`;
const keyedOf = (path: string, body: object): Keyed => ({
  key: randomUUID(),
  path,
  body,
  answers: new Set(),
});
