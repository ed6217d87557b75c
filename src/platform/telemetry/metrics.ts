/**
 * What operators see: Prometheus metrics of this process and of HTTP (the cache and the outbox count their own), and the routes
 * that show them: /metrics, or a listener of its own when METRICS_PORT is set.
 */
import { createServer, type Server } from 'node:http';
import {
  Controller,
  Get,
  Injectable,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Res,
} from '@nestjs/common';
import { RouteConfig } from '@nestjs/platform-fastify';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';
import { Config } from '../config.js';
import { Operation } from '../http/openapi.js';
import { problems } from '../http/problem.js';

@Injectable()
export class HttpMetrics {
  private readonly duration: Histogram<'method' | 'route' | 'status'>;

  constructor(registry: Registry) {
    this.duration = new Histogram({
      name: 'http_server_request_duration_seconds',
      help: 'Time from the request to the end of its response',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [registry],
    });
  }

  /** Measures every request on the Fastify instance; unknown paths share one label, so that callers cannot make more. */
  install(fastify: FastifyInstance): void {
    fastify.addHook('onResponse', (request, reply, done) => {
      const route = request.is404 ? 'unknown' : (request.routeOptions.url ?? 'unknown');
      this.duration.observe(
        { method: request.method, route, status: String(reply.statusCode) },
        reply.elapsedTime / 1000,
      );
      done();
    });
  }
}

/** The listener of METRICS_PORT. */
@Injectable()
export class MetricsListener implements OnApplicationBootstrap, OnApplicationShutdown {
  private server: Server | undefined;

  constructor(
    private readonly config: Config,
    private readonly registry: Registry,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    const { metricsPort, host } = this.config;
    if (metricsPort === undefined) return;
    const server = createServer((request, response) => {
      if (request.url !== '/metrics') return void response.writeHead(404).end();
      void this.registry.metrics().then(
        (text) => response.writeHead(200, { 'Content-Type': this.registry.contentType }).end(text),
        () => response.writeHead(500).end(),
      );
    });
    await new Promise<void>((resolve, reject) =>
      server.once('error', reject).listen(metricsPort, host, resolve),
    );
    this.server = server;
  }

  async onApplicationShutdown(): Promise<void> {
    const { server } = this;
    if (server) await new Promise((resolve) => server.close(resolve));
  }
}

@ApiTags('operations')
@Controller('metrics')
export class MetricsController {
  constructor(
    private readonly config: Config,
    private readonly registry: Registry,
  ) {}

  @Get()
  @RouteConfig({ produces: ['text/plain', 'application/openmetrics-text'] })
  @Operation({
    allow: 'operator',
    summary: 'Metrics for Prometheus',
    description:
      'What this process has counted. Not found here when `METRICS_PORT` gives them a port of their own.',
    produces: 'text/plain',
    returns: 'Metrics in the Prometheus text format.',
    headers: ['Cache-Control'],
    problems: [problems.notFound],
  })
  async getMetrics(@Res() reply: FastifyReply): Promise<void> {
    if (this.config.metricsPort !== undefined) throw problems.notFound();
    await reply
      .header('Content-Type', this.registry.contentType)
      .header('Cache-Control', 'no-store')
      .send(await this.registry.metrics());
  }
}

export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
