/**
 * Prometheus metrics of the process and of HTTP, and the route that shows all metrics: /metrics of
 * the API, or a port of its own when METRICS_PORT is set. Other modules register their own metrics.
 */
import { createServer, type Server, type ServerResponse } from 'node:http';
import {
  Controller,
  Get,
  Injectable,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Res,
} from '@nestjs/common';
import { RouteSettings } from '../http/server/route-settings.decorator.js';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';
import { Config } from '../../config.js';
import { Operation } from '../http/openapi/operation.decorator.js';
import { problems } from '../http/problems/problem.js';
import { SharedResult } from '../timing/shared-result.js';
import { routeLabelOf } from './route-label.js';

@Injectable()
export class HttpMetrics {
  private readonly duration: Histogram<'method' | 'route' | 'status'>;

  constructor(registry: Registry) {
    this.duration = new Histogram({
      name: 'http_server_request_duration_seconds',
      help: 'Seconds from a request until the end of its response, by method, route and status',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [registry],
    });
  }

  /** Measures every request. */
  install(fastify: FastifyInstance): void {
    fastify.addHook('onResponse', (request, reply, done) => {
      const labels = {
        method: request.method,
        route: routeLabelOf(request),
        status: String(reply.statusCode),
      };
      this.duration.observe(labels, reply.elapsedTime / 1000);
      done();
    });
  }
}

/** The text of all metrics. Some need statements: it is collected once at a time. */
@Injectable()
export class MetricsText {
  readonly contentType: string;
  private readonly shared: SharedResult<string>;

  constructor(registry: Registry) {
    this.contentType = registry.contentType;
    this.shared = new SharedResult(() => registry.metrics(), 0);
  }

  collect(): Promise<string> {
    return this.shared.get();
  }
}

/** Of METRICS_PORT: more than Prometheus and a person with curl need. */
const MAX_CONNECTIONS = 20;
/** Of METRICS_PORT: for a request, and for a client that reads nothing. */
const MAX_IDLE_MS = 10_000;

/** Serves /metrics on METRICS_PORT, when that is set: one response for each connection. */
@Injectable()
export class MetricsListener implements OnApplicationBootstrap, OnApplicationShutdown {
  private server: Server | undefined;

  constructor(
    private readonly config: Config,
    private readonly metrics: MetricsText,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    const { metrics, host } = this.config;
    if (!metrics) return;
    const timeouts = { headersTimeout: MAX_IDLE_MS, requestTimeout: MAX_IDLE_MS };
    const server = createServer(timeouts, (request, response) => {
      // Closes at once. After maxRequestsPerSocket, Node waits as long as for a further request.
      response.shouldKeepAlive = false;
      if (request.url === '/metrics') void this.send(response);
      else response.writeHead(404).end();
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.maxRequestsPerSocket = 1;
    server.setTimeout(MAX_IDLE_MS);
    await new Promise<void>((resolve, reject) =>
      server.once('error', reject).listen(metrics.port, metrics.host ?? host, resolve),
    );
    this.server = server;
  }

  async onApplicationShutdown(): Promise<void> {
    const { server } = this;
    if (!server) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  private async send(response: ServerResponse): Promise<void> {
    try {
      const text = await this.metrics.collect();
      response.writeHead(200, { 'Content-Type': this.metrics.contentType }).end(text);
    } catch {
      response.writeHead(500).end();
    }
  }
}

@ApiTags('operations')
@Controller('metrics')
export class MetricsController {
  constructor(
    private readonly config: Config,
    private readonly metrics: MetricsText,
  ) {}

  @Get()
  @RouteSettings({ produces: ['text/plain', 'application/openmetrics-text'] })
  @Operation({
    allow: 'operator',
    summary: 'Get the metrics of this process for Prometheus',
    description: '404 when `METRICS_PORT` is set: the metrics are then served on that port only.',
    produces: 'text/plain',
    returns: 'The metrics in the Prometheus text format.',
    headers: ['Cache-Control'],
    problems: [problems.notFound],
  })
  async getMetrics(@Res() reply: FastifyReply): Promise<void> {
    if (this.config.metrics) throw problems.notFound();
    await reply
      .header('Content-Type', this.metrics.contentType)
      .header('Cache-Control', 'no-store')
      .send(await this.metrics.collect());
  }
}

/** A registry with the default metrics of Node: CPU, memory, event loop, garbage collection. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
