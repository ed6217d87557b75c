/**
 * Installs the bounds (bounds.ts) on the HTTP server: connections, pipelines, requests in flight,
 * unread bytes, readers that stall, and the process's own time and memory.
 */
import { Inject, Injectable, type OnModuleDestroy, Optional } from '@nestjs/common';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Gauge, Registry } from 'prom-client';
import { Config } from '../../../config.js';
import { RateLimit } from '../rate-limit/rate-limit.service.js';
import { clientAddressOf, createClientLookup } from '../server/client-address.js';
import { BOUND_OVERRIDES, BOUNDS, type Bounds } from './bounds.js';
import { boundConnections } from './connections.js';
import { serveInTurn } from './pipelines.js';
import { shedUnderPressure } from './pressure.js';
import { Refusals } from './refusals.js';
import { RequestsInFlight } from './requests-in-flight.js';
import { StalledReaders } from './stalled-readers.js';

@Injectable()
export class OverloadProtection implements OnModuleDestroy {
  private readonly bounds: Bounds;
  private readonly requests: RequestsInFlight;
  private readonly stalledReaders: StalledReaders;

  constructor(
    private readonly config: Config,
    private readonly refusals: Refusals,
    private readonly rateLimit: RateLimit,
    registry: Registry,
    @Optional() @Inject(BOUND_OVERRIDES) overrides: Partial<Bounds> = {},
  ) {
    this.bounds = withinPool({ ...BOUNDS, ...overrides }, config.databasePool);
    this.requests = new RequestsInFlight(this.bounds, refusals, this.countRefused);
    this.stalledReaders = new StalledReaders(refusals, this.bounds.connection);
    this.registerGauges(registry);
  }

  /**
   * Counts a refused request for its address. To find its caller would cost what the process does
   * not have.
   */
  readonly countRefused = (request: FastifyRequest): void => {
    void this.rateLimit.countRefused(clientAddressOf(request));
  };

  /** Call before any route is registered, and before the server listens. */
  async install(fastify: FastifyInstance): Promise<void> {
    const { server } = fastify;
    const { address, connection, pipelined } = this.bounds;
    const { trustProxy } = this.config;
    const clientOf = createClientLookup(trustProxy);
    const maxima = { maxPerConnection: connection.pipelined, maxWaiting: pipelined };
    serveInTurn(server, this.refusals, maxima, (request) => {
      void this.rateLimit.countRefused(clientOf(request));
    });
    boundConnections(server, this.refusals, { maxConnections: address.connections, trustProxy });
    this.stalledReaders.watch(server);
    await shedUnderPressure(fastify, this.bounds, this.refusals, this.countRefused);
    this.requests.install(fastify);
  }

  /** Not beforeApplicationShutdown: there, HealthModule first waits for load balancers. */
  onModuleDestroy(): void {
    this.stalledReaders.drain();
  }

  /**
   * Counts a request for its caller. Resolves when it may be worked on.
   * @param userId of the caller
   * @throws Problem overloaded
   */
  admitCaller(userId: string, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    return this.requests.admitCaller(userId, request, reply);
  }

  private registerGauges(registry: Registry): void {
    const registers = [registry];
    const requests: Gauge = new Gauge({
      name: 'holdfast_requests_in_flight',
      help: 'Requests whose response has not left completely; without probes',
      registers,
      collect: () => requests.set(this.requests.count),
    });
    const unreadBytes: Gauge = new Gauge({
      name: 'holdfast_unread_response_bytes',
      help: 'Bytes of large responses that clients have not read yet',
      registers,
      collect: () => unreadBytes.set(this.requests.unreadBytes),
    });
    const arrivingBytes: Gauge = new Gauge({
      name: 'holdfast_arriving_request_bytes',
      help: 'Bytes of large request bodies that were announced and have not arrived completely',
      registers,
      collect: () => arrivingBytes.set(this.requests.arrivingBytes),
    });
  }
}

/** One caller leaves connections of the pool to others. */
function withinPool(bounds: Bounds, poolSize: number): Bounds {
  const { caller } = bounds;
  const ofPool = Math.max(1, Math.floor(poolSize * caller.poolShare));
  return { ...bounds, caller: { ...caller, workedOn: Math.min(caller.workedOn, ofPool) } };
}
