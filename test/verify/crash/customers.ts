/**
 * Customers that behave as careful clients: each request that changes something carries an
 * Idempotency-Key, and is sent again to the other node until it is answered. Some requests go to
 * both nodes at once. The audit judges the answers that they got.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Reply, sendRequest } from '../../support/http-client.js';
import type { Random } from '../../support/random.js';
import type { CrashNode } from './crash-node.js';

/** A request with an Idempotency-Key, and every successful answer that the key got. */
export interface KeyedRequest {
  readonly key: string;
  readonly path: string;
  readonly body: object;
  /** Equal answers are one entry; see {@link bodyOf}. */
  readonly answers: Set<string>;
}

/** One order, from its customer's side. */
export interface Purchase {
  /** The order's note. It identifies the order even when no answer was received. */
  readonly tag: string;
  readonly place: KeyedRequest;
  readonly pay: KeyedRequest | undefined;
}

interface PlainRequest {
  readonly method: string;
  readonly path: string;
  readonly body: object;
  readonly headers: Readonly<Record<string, string>>;
}

/** The longest pause between two orders: without it, no processor is left for starting nodes. */
const MAX_PAUSE_MS = 100;
/** For one request, with all its repetitions. */
const GIVE_UP_MS = 180_000;
/** Keys that are repeated at the same time at the end. */
const REPEATS_AT_ONCE = 8;
/** Answers after which a client may send the request again. */
const RETRYABLE = new Set([
  '503 database-unavailable',
  '503 overloaded',
  '409 idempotency-key-in-flight',
]);

/** The body of one of {@link KeyedRequest.answers}. */
export const bodyOf = (answer: string): string => (JSON.parse(answer) as [number, string])[1];

/** The id of the order in one of {@link KeyedRequest.answers}. */
export const orderIdOf = (answer: string): string =>
  (JSON.parse(bodyOf(answer)) as { id: string }).id;

/** The keyed requests of these purchases. */
export const keyedRequestsOf = (purchases: readonly Purchase[]): KeyedRequest[] =>
  purchases.flatMap(({ place, pay }) => (pay ? [place, pay] : [place]));

export interface CustomerOptions {
  readonly token: string;
  /** Begins the tag of each purchase; unique within the database. */
  readonly round: string;
  /** Share of the requests that go to both nodes at once. */
  readonly raceShare: number;
}

export class Customers {
  readonly purchases: Purchase[] = [];
  /** Answers that no client should ever get, and requests that nobody answered. */
  readonly problems: string[] = [];
  /** Requests; those without an answer, because a node died; answers that repeat an earlier one. */
  readonly counts = { sent: 0, unanswered: 0, replayed: 0 };
  private isStopping = false;
  private giveUpMs = GIVE_UP_MS;
  private running: Promise<void>[] = [];

  constructor(
    private readonly nodes: readonly CrashNode[],
    private readonly random: Random,
    private readonly options: CustomerOptions,
  ) {}

  start(count: number): void {
    this.running = Array.from({ length: count }, (_, customer) => this.keepBuying(customer));
  }

  /**
   * Resolves when every customer has completed the current purchase.
   * @param giveUpMs how long a customer repeats a request
   */
  async stop(giveUpMs = GIVE_UP_MS): Promise<void> {
    this.isStopping = true;
    this.giveUpMs = giveUpMs;
    await Promise.all(this.running);
  }

  /** Sends each key once more to each node that runs. */
  async repeatAll(): Promise<void> {
    const requests = keyedRequestsOf(this.purchases);
    for (const node of this.nodes.filter(({ url }) => url !== undefined)) {
      for (let index = 0; index < requests.length; index += REPEATS_AT_ONCE) {
        const group = requests.slice(index, index + REPEATS_AT_ONCE);
        await Promise.all(group.map((request) => this.sendUntilAnswered(request, [node])));
      }
    }
  }

  private async keepBuying(customer: number): Promise<void> {
    for (let number = 0; !this.isStopping; number++) {
      await this.buy(`${this.options.round} ${customer}-${number}`);
      await sleep(this.random.between(0, MAX_PAUSE_MS));
    }
  }

  /** Places an order, changes it in half of the cases, and pays it. */
  private async buy(tag: string): Promise<void> {
    const item = {
      sku: `SKU-${tag.length}`,
      name: 'Rope',
      quantity: this.random.between(1, 9),
      unitPrice: 1_450,
    };
    const place = createRequest('/v1/orders', { currency: 'EUR', items: [item], note: tag });
    const { id } = (await this.sendKeyed(place)) as { id?: string };
    if (id === undefined) {
      this.purchases.push({ tag, place, pay: undefined });
      return;
    }
    if (this.random.chance(0.5)) await this.change(id, { ...item, quantity: item.quantity + 1 });
    const pay = createRequest(`/v1/orders/${id}/pay`, { reason: tag });
    await this.sendKeyed(pay);
    this.purchases.push({ tag, place, pay });
  }

  /** A PATCH has no key: after a missing answer, 412 says that it was done. */
  private async change(id: string, item: object): Promise<void> {
    const path = `/v1/orders/${id}`;
    const request = {
      method: 'PATCH',
      path,
      body: { items: [item] },
      headers: { 'If-Match': '"1"' },
    };
    for (let attempt = 0; attempt < 2; attempt++) {
      const reply = await this.sendOnce(this.random.pick(this.nodes), request);
      const isDone = reply?.status === 200 || (reply?.status === 412 && attempt > 0);
      if (isDone) return;
      if (reply && !isRetryable(reply)) {
        this.problems.push(`PATCH ${path}: ${statusAndCode(reply)}`);
        return;
      }
    }
  }

  /** Sends it to one node first, or to both at once. @returns the body of an answer */
  private async sendKeyed(request: KeyedRequest): Promise<object> {
    const copies = this.random.chance(this.options.raceShare) ? 2 : 1;
    const firstIndex = this.random.between(0, this.nodes.length - 1);
    const answers = await Promise.all(
      Array.from({ length: copies }, (_, copy) =>
        this.sendUntilAnswered(request, this.nodesFrom(firstIndex + copy)),
      ),
    );
    return answers[0] as object;
  }

  private nodesFrom(firstIndex: number): CrashNode[] {
    return this.nodes.map((_, offset) => {
      const index = (firstIndex + offset) % this.nodes.length;
      return this.nodes[index] as CrashNode;
    });
  }

  /** Sends it to these nodes in turn. @returns the body of the answer; {} without one */
  private async sendUntilAnswered(
    { key, path, body, answers }: KeyedRequest,
    nodes: readonly CrashNode[],
  ): Promise<object> {
    const request = { method: 'POST', path, body, headers: { 'Idempotency-Key': key } };
    const startedAt = Date.now();
    for (let attempt = 0; Date.now() < startedAt + this.giveUpMs; attempt++) {
      const reply = await this.sendOnce(nodes[attempt % nodes.length] as CrashNode, request);
      if (reply && reply.status < 300) {
        if (reply.headers.get('idempotent-replayed') === 'true') this.counts.replayed++;
        answers.add(serialize(reply));
        return reply.body as object;
      }
      if (reply && !isRetryable(reply)) {
        this.problems.push(`POST ${path} with key ${key}: ${statusAndCode(reply)}`);
        return {};
      }
      await sleep(this.random.between(2, 30));
    }
    this.problems.push(`POST ${path} with key ${key}: no answer in ${Date.now() - startedAt} ms`);
    return {};
  }

  /** @returns undefined without an answer */
  private async sendOnce(
    { url }: CrashNode,
    { method, path, body, headers }: PlainRequest,
  ): Promise<Reply | undefined> {
    if (url === undefined) return undefined;
    this.counts.sent++;
    try {
      return await sendRequest(url + path, method, { token: this.options.token, body, headers });
    } catch {
      this.counts.unanswered++;
      return undefined;
    }
  }
}

const createRequest = (path: string, body: object): KeyedRequest => ({
  key: randomUUID(),
  path,
  body,
  answers: new Set(),
});

function serialize({ status, text, headers }: Reply): string {
  const fields = ['location', 'etag', 'content-type'].map((name) => headers.get(name));
  return JSON.stringify([status, text, ...fields]);
}

const statusAndCode = ({ status, body }: Reply): string =>
  `${status} ${String((body as { code?: string }).code)}`;

const isRetryable = (reply: Reply): boolean => RETRYABLE.has(statusAndCode(reply));
