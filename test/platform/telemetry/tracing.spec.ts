/**
 * Traces as an OTLP collector receives them, what they never contain, and that no response depends
 * on the collector.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { tracingChannel } from 'node:diagnostics_channel';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { ORDER, placeOrder, registerUser, type TestUser } from '../../support/factories.js';
import { type RedisServer, startRedis } from '../../support/redis.js';
import { REPOSITORY } from '../../support/repository.js';

// Numbers of the OTLP protocol (opentelemetry-proto, trace.proto).
const KIND = { SERVER: 2, CLIENT: 3, PRODUCER: 4 } as const;
const STATUS_ERROR = 2;

interface Attributes {
  readonly attributes: readonly { key: string; value: Record<string, unknown> }[];
}

interface Span extends Attributes {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly status: { code?: number };
}

interface Export {
  readonly resourceSpans: {
    readonly resource: Attributes;
    readonly scopeSpans: { readonly spans: Span[] }[];
  }[];
}

/** An OTLP collector for POST /v1/traces, which can also reject exports or never answer them. */
class Collector {
  mode: 'accept' | 'reject' | 'hang' = 'accept';
  /** Bodies of the accepted exports. */
  readonly accepted: string[] = [];
  rejectedExports = 0;
  /** Responses to the exports that hang. */
  private readonly hanging: ServerResponse[] = [];
  private readonly server: Server;

  private constructor() {
    this.server = createServer((request, response) => void this.receive(request, response));
  }

  static async start(): Promise<Collector> {
    const collector = new Collector();
    await new Promise<void>((resolve) => collector.server.listen(0, '127.0.0.1', resolve));
    return collector;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  get hangingExports(): number {
    return this.hanging.length;
  }

  get spans(): Span[] {
    return this.accepted
      .map((text) => JSON.parse(text) as Export)
      .flatMap(({ resourceSpans }) => resourceSpans)
      .flatMap(({ scopeSpans }) => scopeSpans)
      .flatMap(({ spans }) => spans);
  }

  /** The spans of a trace, once `isComplete`; without it, once a request's span is there. */
  async traceOf(
    traceId: string,
    isComplete = (spans: Span[]): boolean => spans.some(({ kind }) => kind === KIND.SERVER),
  ): Promise<Span[]> {
    const received = (): Span[] => this.spans.filter((span) => span.traceId === traceId);
    await eventually(`the collector has the trace ${traceId}`, () => isComplete(received()));
    return received();
  }

  async stop(): Promise<void> {
    // Answered at last: an exporter whose connection breaks would try again for some seconds.
    for (const response of this.hanging) response.writeHead(200).end('{}');
    this.server.closeIdleConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const isOtlp =
      request.url === '/v1/traces' && /json/.test(request.headers['content-type'] ?? '');
    if (!isOtlp) return void response.writeHead(404).end();
    switch (this.mode) {
      case 'accept':
        this.accepted.push(Buffer.concat(chunks).toString());
        return void response.writeHead(200, { 'Content-Type': 'application/json' }).end('{}');
      case 'reject':
        this.rejectedExports++;
        return void response.writeHead(500).end();
      case 'hang':
        this.hanging.push(response);
    }
  }
}

function attributeOf({ attributes }: Attributes, key: string): unknown {
  const value = attributes.find((attribute) => attribute.key === key)?.value ?? {};
  return Object.values(value)[0];
}

function requestSpanOf(spans: readonly Span[]): Span {
  return spans.find(({ kind }) => kind === KIND.SERVER) as Span;
}

/** A trace of the caller, which is sampled. */
function newTrace(): { traceId: string; parentId: string; traceparent: string } {
  const traceId = randomBytes(16).toString('hex');
  const parentId = randomBytes(8).toString('hex');
  return { traceId, parentId, traceparent: `00-${traceId}-${parentId}-01` };
}

describe('traces', () => {
  let collector: Collector;
  let redis: RedisServer;
  let app: TestApp;
  let user: TestUser;
  let sql: pg.Client;
  const lines: string[] = [];

  beforeAll(async () => {
    [collector, redis] = await Promise.all([Collector.start(), startRedis()]);
    const env = {
      // The slash at the end must not double the one before v1.
      OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/`,
      REDIS_URL: redis.url,
      LOG_LEVEL: 'debug',
    };
    const log = { write: (line: string) => void lines.push(line) };
    app = await startApp(env, undefined, log);
    user = await registerUser(app);
    sql = new pg.Client({ connectionString: app.databaseUrl });
    await sql.connect();
  });
  afterAll(async () => {
    await sql.end();
    await app.close();
    await redis.stop();
    await collector.stop();
  });

  describe('of a read', () => {
    const { traceId, parentId, traceparent } = newTrace();
    let spans: Span[];

    beforeAll(async () => {
      const { id } = await placeOrder(app, user.token);
      const headers = { traceparent, 'Cache-Control': 'no-cache' };
      await app.call('GET', `/v1/orders/${id}`, { token: user.token, headers });
      spans = await collector.traceOf(traceId);
    });

    it('contain a span for the request, below the span of the caller', () => {
      const span = requestSpanOf(spans);
      expect(span).toMatchObject({ name: 'GET /v1/orders/:id', parentSpanId: parentId });
      expect(attributeOf(span, 'http.route')).toBe('/v1/orders/:id');
      expect(Number(attributeOf(span, 'http.response.status_code'))).toBe(200);
    });

    it.each(['postgresql SELECT', 'cache get'])(
      'contain a span "%s" below the span of the request',
      (name) => {
        expect(spans.find((span) => span.name === name)).toMatchObject({
          parentSpanId: requestSpanOf(spans).spanId,
          kind: KIND.CLIENT,
        });
      },
    );

    it('name the service', () => {
      const [batch] = (JSON.parse(collector.accepted[0] as string) as Export).resourceSpans;
      expect(attributeOf(batch!.resource, 'service.name')).toBe('holdfast');
    });
  });

  describe('of a write', () => {
    const { traceId, traceparent } = newTrace();
    let orderId: string;
    let spans: Span[];
    let requestSpan: Span;

    beforeAll(async () => {
      const headers = { traceparent, 'Idempotency-Key': randomUUID() };
      const options = { token: user.token, body: ORDER, headers };
      const { body } = await app.call('POST', '/v1/orders', options);
      orderId = body.id as string;
      spans = await collector.traceOf(traceId);
      requestSpan = requestSpanOf(spans);
    });

    it('continue after the body was read: each step is below the request', () => {
      const steps = spans.filter(({ kind }) => kind === KIND.CLIENT);
      expect(steps.map(({ name }) => name)).toEqual(
        expect.arrayContaining([
          'postgresql START',
          'postgresql INSERT',
          'postgresql COMMIT',
          'cache fence',
          'cache publish',
        ]),
      );
      expect(new Set(steps.map(({ parentSpanId }) => parentSpanId))).toEqual(
        new Set([requestSpan.spanId]),
      );
    });

    it('continue in the outbox: an event carries the trace of its request', async () => {
      const { rows } = await sql.query('SELECT trace_parent FROM outbox WHERE subject = $1', [
        `orders/${orderId}`,
      ]);
      expect(rows).toEqual([{ trace_parent: `00-${traceId}-${requestSpan.spanId}-01` }]);
    });

    it('contain the publication of the event, which happens after the request', async () => {
      // As the relay does it.
      const traceParent = `00-${traceId}-${requestSpan.spanId}-01`;
      const publication = { operation: 'order.placed', traceParent };
      const channel = tracingChannel<object, object>('holdfast:publish');
      await channel.tracePromise(() => Promise.resolve(), publication);

      const isPublication = ({ kind }: Span): boolean => kind === KIND.PRODUCER;
      const completed = await collector.traceOf(traceId, (all) => all.some(isPublication));
      expect(completed.find(isPublication)).toMatchObject({
        name: 'publish order.placed',
        parentSpanId: requestSpan.spanId,
      });
    });
  });

  it('begin anew when the traceparent is malformed or consists of zeros', async () => {
    const zeros = '00-00000000000000000000000000000000-0000000000000000-01';
    const known = collector.spans.length;
    for (const traceparent of ['junk', zeros]) {
      await app.call('GET', '/v1/users/me', { token: user.token, headers: { traceparent } });
    }

    const newSpans = (): Span[] =>
      collector.spans.slice(known).filter(({ name }) => name === 'GET /v1/users/me');
    await eventually('both requests have a span', () => newSpans().length === 2);

    expect(newSpans().map(({ parentSpanId }) => parentSpanId ?? '')).toEqual(['', '']);
    expect(new Set(newSpans().map(({ traceId }) => traceId)).size).toBe(2);
  });

  it('are not recorded when the caller says so', async () => {
    const unsampled = newTrace();
    const traceparent = unsampled.traceparent.replace(/01$/, '00');
    await app.call('GET', '/v1/users/me', { token: user.token, headers: { traceparent } });

    // A later request: once its span has arrived, an earlier one would have arrived too.
    const later = newTrace();
    const laterHeaders = { traceparent: later.traceparent };
    await app.call('GET', '/v1/users/me', { token: user.token, headers: laterHeaders });
    await collector.traceOf(later.traceId);

    expect(collector.spans.filter(({ traceId }) => traceId === unsampled.traceId)).toEqual([]);
  });

  it('contain nothing that a caller sends, apart from the trace itself', async () => {
    const { traceparent, traceId } = newTrace();
    const canary = `canary-${randomUUID()}`;
    const headers = {
      traceparent,
      tracestate: `x=${canary}`,
      baggage: `x=${canary}`,
      'User-Agent': canary,
      'X-Request-Id': canary,
    };
    const body = { username: canary, password: canary };
    await app.call('POST', `/v1/sessions?${canary}=${canary}`, { headers, body });
    await app.call('GET', `/${canary}`, { headers, token: canary });
    await app.call('GET', `/v1/orders/${canary}`, { headers, token: user.token });

    const spans = await collector.traceOf(
      traceId,
      (all) => all.filter(({ kind }) => kind === KIND.SERVER).length === 3,
    );

    expect(spans.map(({ name }) => name)).toContain('GET unknown');
    // tracestate is part of the trace.
    expect(JSON.stringify(spans).replaceAll(`x=${canary}`, '')).not.toContain(canary);
    const all = collector.accepted.join('');
    expect([user.token, user.username, user.id].filter((text) => all.includes(text))).toEqual([]);
  });

  it('show a failure: the span is an error, and the log line has its ids', async () => {
    const { traceparent, traceId } = newTrace();
    await sql.query('ALTER TABLE order_events RENAME TO hidden');
    try {
      const headers = { traceparent, 'Idempotency-Key': randomUUID() };
      const options = { token: user.token, body: ORDER, headers };
      const { status } = await app.call('POST', '/v1/orders', options);
      expect(status).toBe(500);
    } finally {
      await sql.query('ALTER TABLE hidden RENAME TO order_events');
    }

    const spans = await collector.traceOf(traceId);

    expect(requestSpanOf(spans).status.code).toBe(STATUS_ERROR);
    const failed = spans.filter(({ status }) => status.code === STATUS_ERROR);
    expect(failed.map((span) => attributeOf(span, 'error.type'))).toContain('42P01');
    const logged = lines
      .map((line) => JSON.parse(line) as Record<string, string>)
      .filter((line) => line.trace_id === traceId);
    expect(logged.map(({ level }) => level)).toContain('error');
    expect(logged[0]?.span_id).toMatch(/^[0-9a-f]{16}$/);
  });
});

describe('a collector', () => {
  let collector: Collector;
  let app: TestApp;
  const lines: string[] = [];

  beforeAll(async () => {
    collector = await Collector.start();
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, LOG_LEVEL: 'warn' };
    app = await startApp(env, undefined, { write: (line) => void lines.push(line) });
  });
  afterAll(async () => {
    collector.mode = 'accept';
    await app.close();
    await collector.stop();
  });

  /** A request with a span of its own. */
  const traced = async (): Promise<number> => (await app.call('GET', '/v1/users/me')).status;

  it('rejects exports → the log says so once, not once for each export', async () => {
    collector.mode = 'reject';
    // The third export begins after the failure of the second was handled.
    for (let exports = 1; exports <= 3; exports++) {
      await traced();
      await eventually('the collector rejects it', () => collector.rejectedExports >= exports);
    }

    const warnings = lines.filter((line) => line.includes('to the OTLP collector'));
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/Could not send \d+ spans to the OTLP collector/);
  });

  it('never answers → requests are answered while an export hangs', async () => {
    collector.mode = 'hang';
    await traced();
    await eventually('an export hangs', () => collector.hangingExports > 0);

    const statuses = await Promise.all(Array.from({ length: 20 }, traced));

    expect(new Set(statuses)).toEqual(new Set([401]));
  });

  it.each(['accept', 'hang'] as const)(
    'gets the last spans when the service shuts down, and cannot prevent its end (%s)',
    async (mode) => {
      const last = await Collector.start();
      last.mode = mode;
      const node = await startApp({ OTEL_EXPORTER_OTLP_ENDPOINT: last.url }, app.databaseUrl);
      const { traceId, traceparent } = newTrace();
      await node.call('GET', '/v1/users/me', { headers: { traceparent } });

      await node.close();

      const received = last.spans.some((span) => span.traceId === traceId);
      expect([received, last.hangingExports > 0]).toEqual(
        mode === 'accept' ? [true, false] : [false, true],
      );
      await last.stop();
    },
  );
});

it('a start without a collector loads no package of OpenTelemetry', () => {
  const staticImport = /^(?:import|export)\s(?!type)[^;]*?from '(\.[^']+)'/gm;
  const loaded = new Map<string, string>();
  const load = (file: string): void => {
    if (loaded.has(file) || !existsSync(file)) return;
    const text = readFileSync(file, 'utf8');
    loaded.set(file, text);
    for (const [, target = ''] of text.matchAll(staticImport)) {
      load(new URL(target.replace(/\.js$/, '.ts'), `file://${file}`).pathname);
    }
  };

  load(new URL('src/main.ts', REPOSITORY).pathname);

  expect(loaded.size).toBeGreaterThan(60);
  const users = [...loaded].filter(([, text]) => /from '@opentelemetry/.test(text));
  expect(users.map(([file]) => file)).toEqual([]);
});
