/**
 * Traces by OpenTelemetry, sent as OTLP over HTTP (JSON). This file is loaded only when OTEL_EXPORTER_OTLP_ENDPOINT is set, and
 * with it every package of OpenTelemetry. Spans come from the seams that exist: two Fastify hooks, and the diagnostics channels
 * of the database's client, the cache's store and the broker. Attributes are of closed sets (route, status, operation): no URL,
 * no header, no parameter and no error's text goes in. A collector that is gone or hangs costs nothing but the spans.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import type { LoggerService } from '@nestjs/common';
import {
  type Attributes,
  type Context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  type TextMapGetter,
} from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { ExportResultCode, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  BatchSpanProcessor,
  NodeTracerProvider,
  type SpanExporter,
} from '@opentelemetry/sdk-trace-node';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { withTraceParent } from '../http/trace-context.js';

/** Spans that wait for the collector at most; what comes on top is dropped. Times in milliseconds. */
const QUEUE = {
  maxQueueSize: 2_048,
  maxExportBatchSize: 512,
  scheduledDelayMillis: 1_000,
  exportTimeoutMillis: 3_000,
};
const SHUTDOWN_MS = 2_000;
const TOLD_EVERY_MS = 60_000;
/** Probes and scrapes: many, and all alike. */
const UNTRACED = /^\/(health|metrics)/;

/** What the channels say of a step: its operation, of a closed set, and whose trace it belongs to when it runs outside a request. */
interface Step {
  readonly operation: string;
  readonly traceParent?: string | null;
}

const CHANNELS: Readonly<
  Record<string, { kind: SpanKind; name: (step: Step) => string; of: (step: Step) => Attributes }>
> = {
  'holdfast:query': {
    kind: SpanKind.CLIENT,
    name: ({ operation }) => `postgresql ${operation}`,
    of: ({ operation }) => ({ 'db.system.name': 'postgresql', 'db.operation.name': operation }),
  },
  'holdfast:cache': {
    kind: SpanKind.CLIENT,
    name: ({ operation }) => `cache ${operation}`,
    of: ({ operation }) => ({ 'db.system.name': 'redis', 'db.operation.name': operation }),
  },
  'holdfast:publish': {
    kind: SpanKind.PRODUCER,
    name: ({ operation }) => `publish ${operation}`,
    of: ({ operation }) => ({
      'messaging.system': 'rabbitmq',
      'messaging.operation.name': 'publish',
      'messaging.message.type': operation,
    }),
  },
};

const headers: TextMapGetter<FastifyRequest['headers']> = {
  keys: (carrier) => Object.keys(carrier),
  get: (carrier, name) => carrier[name],
};
const hex = (flags: number): string => flags.toString(16).padStart(2, '0');
const traceParentOf = (span: Span): string => {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return `00-${traceId}-${spanId}-${hex(traceFlags)}`;
};

export class Tracing {
  private readonly contexts = new AsyncLocalStorageContextManager().enable();
  private readonly propagator = new W3CTraceContextPropagator();
  private readonly provider: NodeTracerProvider;
  private readonly running = new WeakMap<object, Span>();
  private readonly unsubscribe: (() => void)[] = [];
  private toldAt = -Infinity;

  /** @param endpoint the collector's base URL: spans go to `<endpoint>/v1/traces` */
  constructor(
    endpoint: string,
    version: string,
    private readonly logger: LoggerService,
  ) {
    const exporter = new OTLPTraceExporter({
      url: `${endpoint.replace(/\/+$/, '')}/v1/traces`,
      timeoutMillis: QUEUE.exportTimeoutMillis,
    });
    this.provider = new NodeTracerProvider({
      resource: resourceFromAttributes({ 'service.name': 'holdfast', 'service.version': version }),
      spanProcessors: [new BatchSpanProcessor(this.telling(exporter), QUEUE)],
    });
    for (const name of Object.keys(CHANNELS)) this.listen(name);
  }

  /** A span for each request, around everything that runs because of it. Call before the routes are registered. */
  install(fastify: FastifyInstance): void {
    const tracer = this.provider.getTracer('holdfast');
    const contextOf = new WeakMap<FastifyRequest, Context>();
    fastify.addHook('onRequest', (request, _, done) => {
      if (UNTRACED.test(request.url)) return done();
      const route = request.is404 ? 'unknown' : (request.routeOptions.url ?? 'unknown');
      const caller = this.propagator.extract(ROOT_CONTEXT, request.headers, headers);
      const span = tracer.startSpan(
        `${request.method} ${route}`,
        {
          kind: SpanKind.SERVER,
          attributes: {
            'http.request.method': request.method,
            'http.route': route,
            'url.scheme': request.protocol,
          },
        },
        caller,
      );
      const context = trace.setSpan(caller, span);
      contextOf.set(request, context);
      this.contexts.with(context, done);
    });
    // After the body was read: what a stream calls back runs in the context of its connection, not of the request.
    fastify.addHook('preValidation', (request, _, done) => {
      const context = contextOf.get(request);
      const span = context && trace.getSpan(context);
      if (!span) return done();
      withTraceParent(traceParentOf(span), () => this.contexts.with(context, done));
    });
    fastify.addHook('onResponse', (request, reply, done) => {
      const context = contextOf.get(request);
      const span = context && trace.getSpan(context);
      span?.setAttribute('http.response.status_code', reply.statusCode);
      if (reply.statusCode >= 500) span?.setStatus({ code: SpanStatusCode.ERROR });
      span?.end();
      done();
    });
    fastify.addHook('onRequestAbort', (request, done) => {
      const context = contextOf.get(request);
      trace.getSpan(context ?? ROOT_CONTEXT)?.setAttribute('error.type', 'aborted');
      done();
    });
    fastify.addHook('onClose', () => this.close());
  }

  /** For a line of log: the ids of the span that it is written under. */
  ids(): Record<string, string> {
    const span = trace.getSpan(this.contexts.active());
    if (!span) return {};
    const { traceId, spanId } = span.spanContext();
    return { trace_id: traceId, span_id: spanId };
  }

  /** Sends what waits, for a bounded time, and stops. */
  async close(): Promise<void> {
    this.unsubscribe.forEach((stop) => stop());
    const late = new Promise<void>((resolve) => setTimeout(resolve, SHUTDOWN_MS).unref());
    await Promise.race([this.provider.shutdown().catch(() => undefined), late]);
  }

  private listen(name: string): void {
    const { kind, name: nameOf, of } = CHANNELS[name]!;
    const tracer = this.provider.getTracer('holdfast');
    const subscribers = {
      start: (step: Step & object) => {
        const sent = step.traceParent ? { traceparent: step.traceParent } : undefined;
        const parent = sent
          ? this.propagator.extract(ROOT_CONTEXT, sent, headers)
          : this.contexts.active();
        // What this process does for itself is no part of anybody's trace.
        if (!trace.getSpan(parent)) return;
        this.running.set(
          step,
          tracer.startSpan(nameOf(step), { kind, attributes: of(step) }, parent),
        );
      },
      error: (step: Step & { error: unknown }) => {
        const { code, name: type } = step.error as { code?: unknown; name?: string };
        const span = this.running.get(step)?.setStatus({ code: SpanStatusCode.ERROR });
        span?.setAttribute('error.type', typeof code === 'string' ? code : (type ?? 'Error'));
      },
      asyncEnd: (step: object) => this.running.get(step)?.end(),
      end: () => undefined,
      asyncStart: () => undefined,
    };
    const channel = tracingChannel<object, object>(name);
    channel.subscribe(subscribers as never);
    this.unsubscribe.push(() => channel.unsubscribe(subscribers as never));
  }

  /** The exporter, with a line of log a minute at most for what it could not send. */
  private telling(exporter: SpanExporter): SpanExporter {
    return {
      export: (spans, done) =>
        exporter.export(spans, (result) => {
          if (
            result.code === ExportResultCode.FAILED &&
            performance.now() - this.toldAt > TOLD_EVERY_MS
          ) {
            this.toldAt = performance.now();
            this.logger.warn(`${spans.length} spans did not reach the OTLP collector`, 'Tracing');
          }
          done(result);
        }),
      shutdown: () => exporter.shutdown(),
      forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve(),
    };
  }
}
