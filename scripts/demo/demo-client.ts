/**
 * HTTP to a running service as the demo's users speak it: each request measured, kept within the limits that the service
 * tells in its RateLimit headers, and sent again after a 429.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Meter, Outcome } from './demo-meter.js';

/** Requests of a window that are left unused: for logging out at the end, and for another client of the same address. */
const RESERVE = 6;
const TIMEOUT_MS = 10_000;
const ATTEMPTS = 3;

/** One limit's window, as the last answer told of it: a user's, or that of the address for requests without a session. */
export class Pacer {
  private nextAt = 0;
  private gap = 0;
  private share = 1;
  /** Milliseconds that requests waited here, all together. */
  waited = 0;

  /**
   * @param even spreads what is left over the window, rather than wait when it is used up
   * @param until when the demo ends (performance.now()): nothing waits longer
   */
  constructor(
    private readonly even: boolean,
    private readonly until: () => number,
  ) {}

  /** Whether there is so much left that one may be lavish. */
  get isAmple(): boolean {
    return this.share > 0.25;
  }

  async take(): Promise<void> {
    const now = performance.now();
    const at = Math.max(now, Math.min(this.nextAt, this.until()));
    this.nextAt = Math.max(now, this.nextAt) + this.gap;
    if (at - now < 1) return;
    this.waited += at - now;
    await sleep(at - now);
  }

  /** `RateLimit: "default";r=<left>;t=<seconds>` and `RateLimit-Policy: "default";q=<limit>;w=<seconds>`. */
  learn(headers: Headers): void {
    const [left, seconds] = ['r', 't'].map((name) => parameter(headers.get('ratelimit'), name));
    const limit = parameter(headers.get('ratelimit-policy'), 'q');
    if (left === undefined || seconds === undefined || !limit) return;
    const now = performance.now();
    const end = now + seconds * 1000;
    this.share = left / limit;
    if (left <= RESERVE) this.nextAt = Math.max(this.nextAt, end);
    else if (this.even)
      this.gap = Math.max(0, Math.min(end, this.until()) - now) / (left - RESERVE);
  }

  refused(seconds: number): void {
    this.nextAt = Math.max(this.nextAt, performance.now() + seconds * 1000);
  }
}

function parameter(header: string | null, name: string): number | undefined {
  const value = new RegExp(`;\\s*${name}=(\\d+)`).exec(header ?? '')?.[1];
  return value === undefined ? undefined : Number(value);
}

export interface Call {
  readonly body?: object;
  readonly token?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly pacer: Pacer;
  /** Statuses or problem codes that the scenario provokes, beside 304. */
  readonly expect?: readonly (number | string)[];
}

export interface Reply {
  /** 0 when there was no answer: the outcome is not known. */
  readonly status: number;
  readonly headers: Headers;
  /** The JSON body, or {}. */
  readonly body: Readonly<Record<string, unknown>>;
}

export class Client {
  constructor(
    private readonly url: string,
    private readonly meter: Meter,
  ) {}

  /** Sends one request; again after a 429 and, since it can do no harm, when a GET or a keyed POST had no answer. */
  async call(operation: string, method: string, path: string, call: Call): Promise<Reply> {
    for (let attempt = 1; ; attempt++) {
      await call.pacer.take();
      const reply = await this.send(operation, method, path, call);
      if (attempt === ATTEMPTS) return reply;
      if (reply.status === 429) call.pacer.refused(Number(reply.headers.get('retry-after') ?? 1));
      else if (reply.status !== 0 || !(method === 'GET' || call.headers?.['Idempotency-Key']))
        return reply;
      else await sleep(250 * attempt);
    }
  }

  private async send(operation: string, method: string, path: string, call: Call): Promise<Reply> {
    const { body, token, headers = {}, pacer, expect = [] } = call;
    const began = performance.now();
    let reply: Reply;
    let problem = '';
    try {
      const response = await fetch(this.url + path, {
        method,
        headers: {
          ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        redirect: 'manual',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const text = await response.text();
      reply = { status: response.status, headers: response.headers, body: parse(text) };
      problem = typeof reply.body.code === 'string' ? reply.body.code : `status ${response.status}`;
      pacer.learn(response.headers);
    } catch (error) {
      const { cause, name } = error as { cause?: { code?: string }; name: string };
      problem = cause?.code ?? name;
      reply = { status: 0, headers: new Headers(), body: {} };
    }
    const { status } = reply;
    const isExpected = status === 304 || expect.includes(status) || expect.includes(problem);
    const isOk = status >= 200 && status < 300;
    const outcome: Outcome = isOk
      ? 'ok'
      : isExpected
        ? 'expected'
        : status === 429
          ? 'limited'
          : 'failed';
    this.meter.record(
      operation,
      performance.now() - began,
      outcome,
      problem,
      reply.headers.get('cache-status'),
    );
    return reply;
  }
}

function parse(text: string): Reply['body'] {
  try {
    const value: unknown = JSON.parse(text || '{}');
    return typeof value === 'object' && value !== null ? (value as Reply['body']) : {};
  } catch {
    return {};
  }
}
