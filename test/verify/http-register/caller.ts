/** Requests of careful clients: a request that gets no answer is sent again, to another node. */
import { setTimeout as sleep } from 'node:timers/promises';
import { withDeadline } from '../../../src/platform/timing/deadline.js';
import { type Reply, type RequestOptions, sendRequest } from '../../support/http-client.js';
import type { Random } from '../../support/random.js';
import type { HttpNode } from './site.js';

/** A client gives up on an answer after this time: its link may be half-open. */
const ANSWER_TIMEOUT_MS = 6_000;
/** For one write with all its repetitions. Only ends a run that hangs. */
const GIVE_UP_MS = 120_000;
const MAX_PAUSE_MS = 60;

/** Answers after which a client may send the request again. */
const RETRYABLE = new Set([
  '503 database-unavailable',
  '503 cache-unavailable',
  '503 overloaded',
  '409 idempotency-key-in-flight',
]);

export interface Request extends RequestOptions {
  readonly method: string;
  /** E.g. `/v1/orders`. */
  readonly path: string;
}

/** An answer that settles what became of a request. */
export interface Answer {
  readonly reply: Reply;
  /** Whether an earlier attempt may have taken effect. */
  readonly isRepeated: boolean;
}

export const codeOf = ({ status, body }: Reply): string =>
  `${status} ${String((body as { code?: string }).code)}`;

export class Caller {
  /** Requests, and those that got no answer. */
  readonly counts = { sent: 0, unanswered: 0 };
  /** Answers that no client should ever get. */
  readonly problems: string[] = [];

  constructor(private readonly nodes: readonly HttpNode[]) {}

  pickNode(random: Random): number {
    return random.between(0, this.nodes.length - 1);
  }

  /** Sends it once. @returns undefined without an answer */
  async send(node: number, { method, path, ...options }: Request): Promise<Reply | undefined> {
    const { url } = this.nodes[node] as HttpNode;
    this.counts.sent++;
    const reply = sendRequest(url + path, method, options);
    // It may fail after the deadline.
    reply.catch(() => undefined);
    try {
      return await withDeadline(ANSWER_TIMEOUT_MS, path, reply);
    } catch {
      this.counts.unanswered++;
      return undefined;
    }
  }

  /** Sends it to one node after the other. @returns undefined without an answer at last */
  async sendUntilAnswered(random: Random, request: Request): Promise<Answer | undefined> {
    const first = this.pickNode(random);
    const deadline = performance.now() + GIVE_UP_MS;
    for (let attempt = 0; performance.now() < deadline; attempt++) {
      const reply = await this.send((first + attempt) % this.nodes.length, request);
      const isSettled = reply && !RETRYABLE.has(codeOf(reply));
      if (isSettled) return { reply, isRepeated: attempt > 0 };
      await sleep(random.between(2, MAX_PAUSE_MS));
    }
    this.problem(request, 'no answer');
    return undefined;
  }

  problem({ method, path }: Request, what: string): void {
    this.problems.push(`${method} ${path}: ${what}`);
  }
}
