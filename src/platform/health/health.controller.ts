/**
 * What Kubernetes asks. Liveness depends on nothing but this process being able to answer, and goes on while it drains;
 * readiness on what every request needs (PostgreSQL, migrations), and tells, without failing, what is only degraded (Redis,
 * the broker). Every look is bounded, so that no probe takes over 100 ms.
 */
import { Controller, Get, Inject, ServiceUnavailableException } from '@nestjs/common';
import { ApiProperty, ApiPropertyOptional, ApiSchema, ApiTags } from '@nestjs/swagger';
import {
  HealthCheckService,
  HealthIndicatorService,
  type HealthIndicatorResult,
} from '@nestjs/terminus';
import { CACHE_STORE, type CacheStore } from '../cache/cache.store.js';
import { Config } from '../config.js';
import { DatabaseProbe } from '../database/database.probe.js';
import { Operation } from '../http/openapi.js';
import { defineProblem, retryLater } from '../http/problem.js';
import { OutboxRelay } from '../outbox/outbox.relay.js';

const notReady = defineProblem({
  code: 'not-ready',
  status: 503,
  title: 'This process takes no traffic now',
  explanation:
    'PostgreSQL is gone, migrations are pending, or the process drains; "checks" says which.',
  example: {
    instance: '/health/ready',
    checks: { postgres: { status: 'down' }, redis: { status: 'up' } },
  },
});

/** Milliseconds that one look may take. */
const PATIENCE_MS = 80;

@ApiSchema({ name: 'Health' })
export class HealthView {
  @ApiProperty({ type: String, enum: ['ok', 'degraded'], example: 'ok' })
  status: string;
  @ApiPropertyOptional({
    type: 'object',
    additionalProperties: { type: 'object', additionalProperties: true },
    description: 'Each part: up, degraded or down.',
    example: { postgres: { status: 'up' }, migrations: { status: 'up' }, redis: { status: 'up' } },
  })
  checks?: object;
}

@ApiTags('health')
@Controller('health')
export class HealthController {
  constructor(
    private readonly health: HealthCheckService,
    private readonly indicators: HealthIndicatorService,
    private readonly database: DatabaseProbe,
    private readonly relay: OutboxRelay,
    private readonly config: Config,
    @Inject(CACHE_STORE) private readonly store: CacheStore,
  ) {}

  @Get('live')
  @Operation({
    allow: 'operator',
    summary: 'Is this process alive?',
    description:
      'Answers while the process can answer, whatever else is down, and also while it drains.',
    type: HealthView,
    returns: 'It is.',
    headers: ['Cache-Control'],
  })
  live(): HealthView {
    return { status: 'ok' };
  }

  @Get('startup')
  @Operation({
    allow: 'operator',
    summary: 'Has this process started?',
    description: 'Answers once the process has started.',
    type: HealthView,
    returns: 'It has.',
    headers: ['Cache-Control'],
  })
  startup(): HealthView {
    return { status: 'ok' };
  }

  @Get('ready')
  @Operation({
    allow: 'operator',
    summary: 'May this process get traffic?',
    description:
      'No when PostgreSQL is gone, migrations are pending or the process drains. Yes, with the part marked `degraded`, when only Redis or the broker is gone.',
    type: HealthView,
    returns: 'It may.',
    headers: ['Cache-Control'],
    problems: [notReady],
  })
  async ready(): Promise<HealthView> {
    try {
      const { status, details } = await this.health.check([
        () =>
          this.indicators
            .check('postgres')
            .attempt(() => this.database.ping())
            .withTimeout(PATIENCE_MS),
        () => this.migrations(),
        () => this.redis(),
        () => this.broker(),
      ]);
      return { status, checks: details };
    } catch (error) {
      if (!(error instanceof ServiceUnavailableException)) throw error;
      const { status, details } = error.getResponse() as { status: string; details: object };
      const detail = status === 'shutting_down' ? 'The process drains.' : undefined;
      throw notReady(detail, { ...retryLater, extensions: { checks: details } });
    }
  }

  private async migrations(): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check('migrations');
    const pending = await this.database.pendingMigrations();
    return pending.length === 0 ? indicator.up() : indicator.down({ pending });
  }

  private async redis(): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check('redis');
    if (!this.config.redisUrl)
      return indicator.up({ message: 'not configured: cached in this process' });
    const patience = new Promise<never>((_, reject) =>
      setTimeout(reject, PATIENCE_MS, new Error('no answer in time')).unref(),
    );
    return Promise.race([this.store.ping(), patience]).then(
      () => indicator.up(),
      () => indicator.degraded('unreachable: reads go to PostgreSQL'),
    );
  }

  private broker(): HealthIndicatorResult {
    const indicator = this.indicators.check('broker');
    switch (this.relay.brokerState) {
      case 'off':
        return indicator.up({ message: 'not configured: events wait in the outbox' });
      case 'connected':
        return indicator.up();
      case 'blocked':
        return indicator.degraded(
          'takes no messages (memory or disk alarm): events wait in the outbox',
        );
      case 'disconnected':
        return indicator.degraded('unreachable: events wait in the outbox');
    }
  }
}
