/**
 * The HTTP client of the demo's users. It measures each request, keeps within the limits that the
 * RateLimit headers announce, and repeats requests after a 429.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Meter, Outcome } from './demo-meter.js';

/** Requests of a window that stay unused: for the logout, and for other clients of the address. */
const RESERVED_REQUESTS = 6;
const REQUEST_TIMEOUT_MS = 10_000;
const RETRY_PAUSE_MS = 250;
const MAX_ATTEMPTS = 3;
/** The share of a window above which the rest is ample. */
const AMPLE_SHARE = 0.25;

export interface PacerOptions {
  /** Spreads the remaining requests over the window. Otherwise requests wait when none is left. */
  readonly spreads: boolean;
  /** When the demo ends, as of `performance.now()`. No request waits longer. */
  readonly endsAt: () => number;
}

/**
 * Delays the requests of one rate limit: a user's, or the address's for requests without session.
 */
export class Pacer {
  private nextAt = 0;
  private gapMs = 0;
  private remainingShare = 1;
  /** The sum of all waits here. */
  waitedMs = 0;

  constructor(private readonly options: PacerOptions) {}

  get isAmple(): boolean {
    return this.remainingShare > AMPLE_SHARE;
  }

  /** Resolves when the next request may be sent. */
  async take(): Promise<void> {
    const now = performance.now();
    const startsAt = Math.max(now, Math.min(this.nextAt, this.options.endsAt()));
    this.nextAt = Math.max(now, this.nextAt) + this.gapMs;
    const waitMs = startsAt - now;
    if (waitMs < 1) return;
    this.waitedMs += waitMs;
    await sleep(waitMs);
  }

  /**
   * Reads `RateLimit: "default";r=<remaining>;t=<seconds>` and `RateLimit-Policy:
   * "default";q=<quota>;w=<seconds>` (draft-ietf-httpapi-ratelimit-headers).
   */
  learn(headers: Headers): void {
    const remaining = parameterOf(headers.get('ratelimit'), 'r');
    const seconds = parameterOf(headers.get('ratelimit'), 't');
    const quota = parameterOf(headers.get('ratelimit-policy'), 'q');
    if (remaining === undefined || seconds === undefined || !quota) return;
    const now = performance.now();
    const windowEndsAt = now + seconds * 1000;
    this.remainingShare = remaining / quota;
    if (remaining <= RESERVED_REQUESTS) {
      this.nextAt = Math.max(this.nextAt, windowEndsAt);
    } else if (this.options.spreads) {
      const spreadMs = Math.max(0, Math.min(windowEndsAt, this.options.endsAt()) - now);
      this.gapMs = spreadMs / (remaining - RESERVED_REQUESTS);
    }
  }

  /** The service sent a 429 with this Retry-After. */
  retryAfter(seconds: number): void {
    this.nextAt = Math.max(this.nextAt, performance.now() + seconds * 1000);
  }
}

function parameterOf(header: string | null, name: string): number | undefined {
  const value = new RegExp(`;\\s*${name}=(\\d+)`).exec(header ?? '')?.[1];
  return value === undefined ? undefined : Number(value);
}

export interface Call {
  readonly body?: object;
  readonly token?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly pacer: Pacer;
  /** Statuses and problem codes that the demo provokes, in addition to 304. */
  readonly expect?: readonly (number | string)[];
}

export interface Reply {
  /** 0 without a response: the request may or may not have been processed. */
  readonly status: number;
  readonly headers: Headers;
  /** The JSON body; {} for any other. */
  readonly body: Readonly<Record<string, unknown>>;
}

export class Client {
  constructor(
    private readonly url: string,
    private readonly meter: Meter,
  ) {}

  /**
   * Sends a request. Repeats it after a 429. Without a response, repeats it only if that is safe: a
   * GET, or a POST with an Idempotency-Key.
   * @param operation the row of the summary that the request counts in
   */
  async call(operation: string, method: string, path: string, call: Call): Promise<Reply> {
    const isSafeToRepeat = method === 'GET' || call.headers?.['Idempotency-Key'] !== undefined;
    for (let attempt = 1; ; attempt++) {
      await call.pacer.take();
      const reply = await this.send(operation, method, path, call);
      if (attempt === MAX_ATTEMPTS) return reply;
      if (reply.status === 429) {
        call.pacer.retryAfter(Number(reply.headers.get('retry-after') ?? 1));
        continue;
      }
      const hasNoResponse = reply.status === 0;
      if (!hasNoResponse || !isSafeToRepeat) return reply;
      await sleep(RETRY_PAUSE_MS * attempt);
    }
  }

  private async send(operation: string, method: string, path: string, call: Call): Promise<Reply> {
    const startedAt = performance.now();
    const { reply, problem } = await this.exchange(method, path, call);
    this.meter.recordRequest({
      operation,
      milliseconds: performance.now() - startedAt,
      outcome: outcomeOf(reply.status, problem, call.expect ?? []),
      problem,
      cacheStatus: reply.headers.get('cache-status'),
    });
    return reply;
  }

  /** @returns the reply, and the problem's code or what broke the connection */
  private async exchange(
    method: string,
    path: string,
    { body, token, headers = {}, pacer }: Call,
  ): Promise<{ reply: Reply; problem: string }> {
    try {
      const response = await fetch(this.url + path, {
        method,
        headers: {
          ...(token !== undefined && { Authorization: `Bearer ${token}` }),
          ...(body !== undefined && { 'Content-Type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        redirect: 'manual',
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      });
      const { status, headers: responseHeaders } = response;
      const reply = { status, headers: responseHeaders, body: parseBody(await response.text()) };
      pacer.learn(responseHeaders);
      const { code } = reply.body;
      return { reply, problem: typeof code === 'string' ? code : `status ${status}` };
    } catch (error) {
      const { cause, name } = error as { cause?: { code?: string }; name: string };
      const reply = { status: 0, headers: new Headers(), body: {} };
      return { reply, problem: cause?.code ?? name };
    }
  }
}

function outcomeOf(
  status: number,
  problem: string,
  expected: readonly (number | string)[],
): Outcome {
  const isSuccess = status >= 200 && status < 300;
  if (isSuccess) return 'ok';
  if (status === 304 || expected.includes(status) || expected.includes(problem)) return 'expected';
  return status === 429 ? 'limited' : 'failed';
}

function parseBody(text: string): Reply['body'] {
  try {
    const value: unknown = JSON.parse(text || '{}');
    return typeof value === 'object' && value !== null ? (value as Reply['body']) : {};
  } catch {
    return {};
  }
}
