/**
 * OpenTelemetry traces, sent as OTLP over HTTP (JSON). Invariants: this file, and with it every
 * package of OpenTelemetry, is loaded only when OTEL_EXPORTER_OTLP_ENDPOINT is set; names and
 * attributes of spans contain nothing that a caller wrote; a collector that fails or hangs costs
 * spans and nothing else. See docs/adr/0017-traces-by-hand.md.
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
import { withTraceParent } from '../http/server/trace-context.js';
import { withDeadline } from '../timing/deadline.js';
import { routeLabelOf } from './route-label.js';

const EXPORT_TIMEOUT_MS = 3_000;
const SHUTDOWN_TIMEOUT_MS = 2_000;
const LOG_INTERVAL_MS = 60_000;

/** Spans that do not fit into the queue are dropped. */
const QUEUE_LIMITS = {
  maxQueueSize: 2_048,
  maxExportBatchSize: 512,
  scheduledDelayMillis: 1_000,
  exportTimeoutMillis: EXPORT_TIMEOUT_MS,
};

/** Probes and scrapes: many, and all alike. */
const UNTRACED_PATHS = /^\/(health|metrics)/;

/** A message of a diagnostics channel about one step. */
interface Step {
  /** From a closed set, e.g. `SELECT`. */
  readonly operation: string;
  /** The trace that the step belongs to, when it runs outside of its request. */
  readonly traceParent?: string | null;
}

interface StepSpan {
  readonly kind: SpanKind;
  readonly name: (operation: string) => string;
  readonly attributes: (operation: string) => Attributes;
}

/** The span of a step, by the diagnostics channel that reports it. */
const SPAN_OF_CHANNEL: Readonly<Record<string, StepSpan>> = {
  'holdfast:query': {
    kind: SpanKind.CLIENT,
    name: (operation) => `postgresql ${operation}`,
    attributes: (operation) => ({
      'db.system.name': 'postgresql',
      'db.operation.name': operation,
    }),
  },
  'holdfast:cache': {
    kind: SpanKind.CLIENT,
    name: (operation) => `cache ${operation}`,
    attributes: (operation) => ({ 'db.system.name': 'redis', 'db.operation.name': operation }),
  },
  'holdfast:publish': {
    kind: SpanKind.PRODUCER,
    name: (operation) => `publish ${operation}`,
    attributes: (operation) => ({
      'messaging.system': 'rabbitmq',
      'messaging.operation.name': 'publish',
      'messaging.message.type': operation,
    }),
  },
};

const headerGetter: TextMapGetter<FastifyRequest['headers']> = {
  keys: (headers) => Object.keys(headers),
  get: (headers, name) => headers[name],
};

/** W3C Trace Context, section 3.2. */
function traceParentOf(span: Span): string {
  const { traceId, spanId, traceFlags } = span.spanContext();
  const flags = traceFlags.toString(16).padStart(2, '0');
  return `00-${traceId}-${spanId}-${flags}`;
}

export class Tracing {
  private readonly contexts = new AsyncLocalStorageContextManager().enable();
  private readonly propagator = new W3CTraceContextPropagator();
  private readonly provider: NodeTracerProvider;
  /** The context of each traced request, with its span. */
  private readonly requestContexts = new WeakMap<FastifyRequest, Context>();
  private readonly stepSpans = new WeakMap<object, Span>();
  private readonly unsubscribers: (() => void)[] = [];
  private lastLoggedAt = -Infinity;

  /** @param endpoint the collector's base URL; spans go to `<endpoint>/v1/traces` */
  constructor(
    endpoint: string,
    version: string,
    private readonly logger: LoggerService,
  ) {
    const exporter = new OTLPTraceExporter({
      url: `${endpoint.replace(/\/+$/, '')}/v1/traces`,
      timeoutMillis: EXPORT_TIMEOUT_MS,
    });
    this.provider = new NodeTracerProvider({
      resource: resourceFromAttributes({ 'service.name': 'holdfast', 'service.version': version }),
      spanProcessors: [new BatchSpanProcessor(this.withFailureLog(exporter), QUEUE_LIMITS)],
    });
    for (const [channel, stepSpan] of Object.entries(SPAN_OF_CHANNEL)) {
      this.subscribe(channel, stepSpan);
    }
  }

  /**
   * Creates a span for each request; the spans of its steps become children. Call before the routes
   * are registered.
   */
  install(fastify: FastifyInstance): void {
    fastify.addHook('onRequest', (request, _, done) => {
      if (UNTRACED_PATHS.test(request.url)) return done();
      const context = this.startRequestSpan(request);
      this.contexts.with(context, done);
    });
    // Again after the body was read: callbacks of the body's stream run in the context of the
    // connection, not of the request.
    fastify.addHook('preValidation', (request, _, done) => {
      const context = this.requestContexts.get(request);
      const span = context && trace.getSpan(context);
      if (!span) return done();
      withTraceParent(traceParentOf(span), () => this.contexts.with(context, done));
    });
    fastify.addHook('onResponse', (request, reply, done) => {
      const span = this.requestSpan(request);
      span?.setAttribute('http.response.status_code', reply.statusCode);
      if (reply.statusCode >= 500) span?.setStatus({ code: SpanStatusCode.ERROR });
      span?.end();
      done();
    });
    fastify.addHook('onRequestAbort', (request, done) => {
      this.requestSpan(request)?.setAttribute('error.type', 'aborted');
      done();
    });
    fastify.addHook('onClose', () => this.close());
  }

  /** The ids of the current span as members of a log line; none outside of a span. */
  ids(): Record<string, string> {
    const span = trace.getSpan(this.contexts.active());
    if (!span) return {};
    const { traceId, spanId } = span.spanContext();
    return { trace_id: traceId, span_id: spanId };
  }

  /** Sends the spans that wait, within 2 s, and stops. Never throws. */
  async close(): Promise<void> {
    for (const unsubscribe of this.unsubscribers) unsubscribe();
    const shutdown = this.provider.shutdown();
    await withDeadline(SHUTDOWN_TIMEOUT_MS, 'Sending the last spans', shutdown).catch(
      () => undefined,
    );
  }

  private startRequestSpan(request: FastifyRequest): Context {
    const route = routeLabelOf(request);
    const callerContext = this.propagator.extract(ROOT_CONTEXT, request.headers, headerGetter);
    const attributes = {
      'http.request.method': request.method,
      'http.route': route,
      'url.scheme': request.protocol,
    };
    const span = this.provider
      .getTracer('holdfast')
      .startSpan(
        `${request.method} ${route}`,
        { kind: SpanKind.SERVER, attributes },
        callerContext,
      );
    const context = trace.setSpan(callerContext, span);
    this.requestContexts.set(request, context);
    return context;
  }

  private requestSpan(request: FastifyRequest): Span | undefined {
    const context = this.requestContexts.get(request);
    return context && trace.getSpan(context);
  }

  /** Creates a span for each step that the channel reports inside of a trace. */
  private subscribe(channelName: string, { kind, name, attributes }: StepSpan): void {
    const tracer = this.provider.getTracer('holdfast');
    const subscribers = {
      start: (step: Step & object) => {
        const parent = this.parentOf(step);
        // A step that no request caused belongs to no trace.
        if (!trace.getSpan(parent)) return;
        const { operation } = step;
        const options = { kind, attributes: attributes(operation) };
        this.stepSpans.set(step, tracer.startSpan(name(operation), options, parent));
      },
      error: (step: Step & { error: unknown }) => {
        const span = this.stepSpans.get(step);
        span?.setStatus({ code: SpanStatusCode.ERROR });
        span?.setAttribute('error.type', errorTypeOf(step.error));
      },
      asyncEnd: (step: object) => this.stepSpans.get(step)?.end(),
      end: () => undefined,
      asyncStart: () => undefined,
    };
    const channel = tracingChannel<object, object>(channelName);
    channel.subscribe(subscribers as never);
    this.unsubscribers.push(() => channel.unsubscribe(subscribers as never));
  }

  private parentOf({ traceParent }: Step): Context {
    if (!traceParent) return this.contexts.active();
    return this.propagator.extract(ROOT_CONTEXT, { traceparent: traceParent }, headerGetter);
  }

  /** Logs that spans were lost, at most once a minute. */
  private withFailureLog(exporter: SpanExporter): SpanExporter {
    return {
      export: (spans, done) =>
        exporter.export(spans, (result) => {
          if (result.code === ExportResultCode.FAILED) this.logLostSpans(spans.length);
          done(result);
        }),
      shutdown: () => exporter.shutdown(),
      forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve(),
    };
  }

  private logLostSpans(count: number): void {
    const now = performance.now();
    if (now - this.lastLoggedAt <= LOG_INTERVAL_MS) return;
    this.lastLoggedAt = now;
    this.logger.warn(`Could not send ${count} spans to the OTLP collector`, 'Tracing');
  }
}

/** The code of a driver's error, else the name of its class: both from closed sets. */
function errorTypeOf(error: unknown): string {
  const { code, name } = error as { code?: unknown; name?: string };
  return typeof code === 'string' ? code : (name ?? 'Error');
}
