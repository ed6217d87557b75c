/** Traces: what a collector gets over real OTLP, what it never gets, and that nothing depends on it. */
import { randomBytes, randomUUID } from 'node:crypto';
import { tracingChannel } from 'node:diagnostics_channel';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../support/app.js';
import { ORDER, person, type Person, placeOrder } from '../support/factories.js';
import { startRedis, type RedisServer } from '../support/redis.js';

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly status: { code?: number };
  readonly attributes: { key: string; value: Record<string, unknown> }[];
}
type Otlp = {
  resourceSpans: { resource: Pick<Span, 'attributes'>; scopeSpans: { spans: Span[] }[] }[];
};

/** An OTLP collector: takes what is posted to /v1/traces. */
class Collector {
  readonly texts: string[] = [];
  answer: number | 'never' = 200;
  private constructor(
    private readonly server: Server,
    readonly url: string,
  ) {}

  static async start(): Promise<Collector> {
    const server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        if (request.url !== '/v1/traces' || !/json/.test(request.headers['content-type'] ?? ''))
          return void response.writeHead(404).end();
        if (collector.answer === 'never') return;
        if (collector.answer === 200) collector.texts.push(Buffer.concat(chunks).toString());
        response.writeHead(collector.answer, { 'Content-Type': 'application/json' }).end('{}');
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const collector = new Collector(
      server,
      `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    );
    return collector;
  }

  get spans(): Span[] {
    return this.texts.flatMap((text) =>
      (JSON.parse(text) as Otlp).resourceSpans.flatMap(({ scopeSpans }) =>
        scopeSpans.flatMap(({ spans }) => spans),
      ),
    );
  }
  async of(
    traceId: string,
    enough: (spans: Span[]) => boolean = (spans) => spans.some(({ kind }) => kind === 2),
  ): Promise<Span[]> {
    for (const deadline = Date.now() + 8_000; ; await sleep(50)) {
      const spans = this.spans.filter((span) => span.traceId === traceId);
      if (enough(spans)) return spans;
      if (Date.now() > deadline) throw new Error(`the collector got only ${JSON.stringify(spans)}`);
    }
  }
  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

const valueOf = ({ attributes }: Pick<Span, 'attributes'>, key: string): unknown =>
  Object.values(attributes.find((one) => one.key === key)?.value ?? {})[0];
const newTrace = (): { traceId: string; traceparent: string; parent: string } => {
  const [traceId, parent] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')];
  return { traceId, parent, traceparent: `00-${traceId}-${parent}-01` };
};

describe('traces', () => {
  let collector: Collector;
  let redis: RedisServer;
  let app: TestApp;
  let someone: Person;
  const lines: string[] = [];

  beforeAll(async () => {
    [collector, redis] = await Promise.all([Collector.start(), startRedis()]);
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/`,
      REDIS_URL: redis.url,
      LOG_LEVEL: 'debug',
    };
    app = await startApp(env, undefined, { write: (line) => void lines.push(line) });
    someone = await person(app);
  });
  afterAll(async () => {
    await app.close();
    await redis.stop();
    await collector.stop();
  });

  it('hold a request, its queries and its cache, under the caller’s trace', async () => {
    const { traceId, parent, traceparent } = newTrace();
    const { id } = await placeOrder(app, someone.token);
    const reply = await app.call('GET', `/v1/orders/${id}`, {
      token: someone.token,
      headers: { traceparent, 'Cache-Control': 'no-cache' },
    });
    expect(reply.status).toBe(200);
    const spans = await collector.of(traceId);
    const root = spans.find(({ kind }) => kind === 2) as Span;
    expect(root).toMatchObject({ name: 'GET /v1/orders/:id', parentSpanId: parent });
    expect([
      valueOf(root, 'http.route'),
      Number(valueOf(root, 'http.response.status_code')),
    ]).toEqual(['/v1/orders/:id', 200]);
    for (const name of ['postgresql SELECT', 'cache get'])
      expect(spans.find((span) => span.name === name)).toMatchObject({
        parentSpanId: root.spanId,
        kind: 3,
      });
    const { resource } = (JSON.parse(collector.texts[0] as string) as Otlp).resourceSpans[0]!;
    expect(valueOf(resource, 'service.name')).toBe('holdfast');
  });

  it('go on behind a body, into the transaction and into the event', async () => {
    const { traceId, traceparent } = newTrace();
    const headers = { traceparent, 'Idempotency-Key': randomUUID() };
    const { body } = await app.call('POST', '/v1/orders', {
      token: someone.token,
      body: ORDER,
      headers,
    });
    const spans = await collector.of(traceId);
    const root = spans.find(({ kind }) => kind === 2) as Span;
    for (const operation of ['START', 'INSERT', 'COMMIT'])
      expect(spans.map(({ name }) => name)).toContain(`postgresql ${operation}`);
    expect(spans.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['cache fence', 'cache publish']),
    );
    expect(
      spans.filter(
        ({ spanId, parentSpanId }) => spanId !== root.spanId && parentSpanId !== root.spanId,
      ),
    ).toEqual([]);
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    const { rows } = await client.query('SELECT trace_parent FROM outbox WHERE subject = $1', [
      `orders/${body.id}`,
    ]);
    await client.end();
    expect(rows).toEqual([{ trace_parent: `00-${traceId}-${root.spanId}-01` }]);
    // The relay carries it out later, outside of any request.
    const step = { operation: 'order.placed', traceParent: rows[0].trace_parent };
    await tracingChannel<object, object>('holdfast:publish').tracePromise(
      () => Promise.resolve(),
      step,
    );
    const [published] = (
      await collector.of(traceId, (all) => all.some(({ kind }) => kind === 4))
    ).filter(({ kind }) => kind === 4);
    expect(published).toMatchObject({ name: 'publish order.placed', parentSpanId: root.spanId });
  });

  it('begin anew without a well-formed traceparent, and are not taken when the caller says so', async () => {
    const none = '00-00000000000000000000000000000000-0000000000000000-01';
    const before = collector.spans.length;
    for (const traceparent of ['junk', none])
      await app.call('GET', '/v1/users/me', { token: someone.token, headers: { traceparent } });
    const { traceId, traceparent } = newTrace();
    await app.call('GET', '/v1/sessions/current', {
      token: someone.token,
      headers: { traceparent: traceparent.replace(/01$/, '00') },
    });
    const roots = (): Span[] =>
      collector.spans.slice(before).filter(({ name }) => name === 'GET /v1/users/me');
    for (const deadline = Date.now() + 5_000; roots().length < 2 && Date.now() < deadline;)
      await sleep(50);
    expect(roots().map(({ parentSpanId }) => parentSpanId ?? '')).toEqual(['', '']);
    expect(new Set(roots().map((span) => span.traceId)).size).toBe(2);
    expect(collector.spans.filter((span) => span.traceId === traceId)).toEqual([]);
  });

  it('have names and attributes of closed sets: nothing that a caller sends but its trace', async () => {
    const { traceparent, traceId } = newTrace();
    const canary = `canary-${randomUUID()}`;
    const headers = {
      traceparent,
      tracestate: `x=${canary}`,
      baggage: `x=${canary}`,
      'User-Agent': canary,
      'X-Request-Id': canary,
    };
    await app.call('POST', `/v1/sessions?${canary}=${canary}`, {
      headers,
      body: { username: canary, password: canary },
    });
    await app.call('GET', `/${canary}`, { headers, token: canary });
    await app.call('GET', `/v1/orders/${canary}`, { headers, token: someone.token });
    const spans = await collector.of(
      traceId,
      (all) => all.filter(({ kind }) => kind === 2).length === 3,
    );
    expect(spans.map(({ name }) => name)).toContain('GET unknown');
    const text = JSON.stringify(spans).replaceAll(`x=${canary}`, '');
    expect(text).not.toContain(canary);
    for (const secret of [someone.token, someone.username, someone.id])
      expect(collector.texts.join('')).not.toContain(secret);
  });

  it('are told by a fault: the span is an error, and the log line has its ids', async () => {
    const { traceparent, traceId } = newTrace();
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    await client.query('ALTER TABLE order_events RENAME TO gone');
    try {
      const { id } = { id: randomUUID() };
      const headers = { traceparent, 'Idempotency-Key': id };
      const { status } = await app.call('POST', '/v1/orders', {
        token: someone.token,
        body: ORDER,
        headers,
      });
      expect(status).toBeGreaterThanOrEqual(500);
    } finally {
      await client.query('ALTER TABLE gone RENAME TO order_events');
      await client.end();
    }
    const spans = await collector.of(traceId);
    expect(spans.find(({ kind }) => kind === 2)?.status.code).toBe(2);
    expect(
      spans.filter(({ status }) => status.code === 2).map((span) => valueOf(span, 'error.type')),
    ).toContain('42P01');
    const logged = lines
      .map((line) => JSON.parse(line) as Record<string, string>)
      .filter((line) => line.trace_id === traceId);
    expect(logged.map(({ level }) => level)).toContain('error');
    expect(logged[0]?.span_id).toMatch(/^[0-9a-f]{16}$/);
  });

  it('cost no answer when the collector refuses, hangs or is gone, and the log says so once', async () => {
    const slowest = async (): Promise<number> => {
      let most = 0;
      for (let times = 0; times < 20; times++) {
        const began = performance.now();
        expect((await app.call('GET', '/v1/users/me', { token: someone.token })).status).toBe(200);
        most = Math.max(most, performance.now() - began);
      }
      return most;
    };
    for (const answer of [500, 'never'] as const) {
      collector.answer = answer;
      expect(await slowest()).toBeLessThan(500);
      await sleep(1_500);
    }
    collector.answer = 200;
    for (
      const deadline = Date.now() + 8_000;
      !lines.some((line) => line.includes('did not reach')) && Date.now() < deadline;
    )
      await sleep(50);
    expect(lines.filter((line) => line.includes('did not reach'))).toHaveLength(1);
  });

  it('are sent at the end, and a collector that hangs does not hold the end up', async () => {
    for (const answer of [200, 'never'] as const) {
      const own = await Collector.start();
      own.answer = answer;
      const other = await startApp({ OTEL_EXPORTER_OTLP_ENDPOINT: own.url });
      const { traceId, traceparent } = newTrace();
      await other.call('GET', '/v1/users/me', { headers: { traceparent } });
      const began = performance.now();
      await other.close();
      expect(performance.now() - began).toBeLessThan(4_000);
      if (answer === 200) expect(own.spans.map((span) => span.traceId)).toContain(traceId);
      await own.stop();
    }
  });
});

it('no file that a start without an endpoint loads imports a package of OpenTelemetry', () => {
  const graph = new Set<string>();
  const walk = (file: string): void => {
    if (graph.has(file) || !existsSync(file)) return;
    graph.add(file);
    for (const [, to = ''] of readFileSync(file, 'utf8').matchAll(
      /^(?:import|export)\s(?!type)[^;]*?from '(\.[^']+)'/gm,
    ))
      walk(new URL(to.replace(/\.js$/, '.ts'), `file://${file}`).pathname);
  };
  walk(new URL('../../src/main.ts', import.meta.url).pathname);
  expect(graph.size).toBeGreaterThan(60);
  const using = [...graph].filter((file) =>
    /from '@opentelemetry/.test(readFileSync(file, 'utf8')),
  );
  expect(using).toEqual([]);
});
