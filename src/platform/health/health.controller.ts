/**
 * The probes of Kubernetes. Liveness depends only on this process; readiness on what every request
 * needs: PostgreSQL and its migrations. Redis and the broker are reported but do not count: the
 * service works without them. Invariant: each check has a deadline, so no probe takes over 100 ms.
 */
import { Controller, Get, Inject, Logger, ServiceUnavailableException } from '@nestjs/common';
import { ApiProperty, ApiPropertyOptional, ApiSchema, ApiTags } from '@nestjs/swagger';
import {
  HealthCheckService,
  HealthIndicatorService,
  type HealthIndicatorResult,
} from '@nestjs/terminus';
import { Membership, MEMBERSHIP_STATES } from '../cache/epoch/membership.js';
import { CACHE_STORE, type CacheStore } from '../cache/store/cache-store.js';
import { Config } from '../../config.js';
import { DatabaseProbe } from '../database/database-probe.js';
import { Replicas } from '../database/replicas.js';
import { Operation } from '../http/openapi/operation.decorator.js';
import { defineProblem, RETRY_AFTER, RETRY_LATER } from '../http/problems/problem.js';
import { OutboxRelay } from '../outbox/outbox-relay.js';
import { withDeadline } from '../timing/deadline.js';
import { SharedResult } from '../timing/shared-result.js';

const notReady = defineProblem({
  code: 'not-ready',
  status: 503,
  title: 'This process is not ready for requests',
  headers: RETRY_AFTER,
  explanation:
    'PostgreSQL does not answer, migrations are pending, or the process is shutting down. ' +
    '"checks" has the state of each part.',
  example: {
    instance: '/health/ready',
    checks: { postgres: { status: 'down' }, redis: { status: 'up' } },
  },
});

/** The reason of a failed check. */
const NO_ANSWER = 'does not answer';

/** Milliseconds for each check. All checks run at the same time. */
const CHECK_TIMEOUT_MS = 80;

/** How long probes share one result: far below the second that probes are apart. */
const SHARED_FOR_MS = 100;

@ApiSchema({ name: 'Health' })
export class HealthView {
  @ApiProperty({ type: String, enum: ['ok', 'degraded'], example: 'ok' })
  status: string;
  @ApiPropertyOptional({
    type: 'object',
    additionalProperties: { type: 'object', additionalProperties: true },
    description: 'The state of each part: up, degraded or down.',
    example: { postgres: { status: 'up' }, migrations: { status: 'up' }, redis: { status: 'up' } },
  })
  checks?: object;
}

@ApiTags('health')
@Controller('health')
export class HealthController {
  private readonly logger = new Logger('Health');
  /** Parts whose last check failed. */
  private readonly failing = new Set<string>();
  /** However many ask, PostgreSQL and Redis are asked ten times a second. */
  private readonly readiness = new SharedResult(() => this.checkAll(), SHARED_FOR_MS);

  constructor(
    private readonly health: HealthCheckService,
    private readonly indicators: HealthIndicatorService,
    private readonly database: DatabaseProbe,
    private readonly relay: OutboxRelay,
    private readonly config: Config,
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly membership: Membership,
    private readonly replicas: Replicas,
  ) {}

  @Get('live')
  @Operation({
    allow: 'operator',
    summary: 'Check that this process is alive',
    description:
      '200 as long as the process can answer: also without PostgreSQL, and while it shuts down.',
    type: HealthView,
    returns: 'The process is alive.',
    headers: ['Cache-Control'],
  })
  live(): HealthView {
    return { status: 'ok' };
  }

  @Get('startup')
  @Operation({
    allow: 'operator',
    summary: 'Check that this process has started',
    description: 'The process accepts connections only after it has started, and then answers 200.',
    type: HealthView,
    returns: 'The process has started.',
    headers: ['Cache-Control'],
  })
  startup(): HealthView {
    return { status: 'ok' };
  }

  @Get('ready')
  @Operation({
    allow: 'operator',
    summary: 'Check that this process can take requests',
    description:
      '503 when PostgreSQL does not answer, migrations are pending, or the process is shutting ' +
      'down. 200 when only Redis, the cache, a replica, the broker or the relay cannot be used: ' +
      'that part is then `degraded`.',
    type: HealthView,
    returns: 'The process can take requests.',
    headers: ['Cache-Control'],
    problems: [notReady],
  })
  ready(): Promise<HealthView> {
    return this.readiness.get();
  }

  private async checkAll(): Promise<HealthView> {
    try {
      const { status, details } = await this.health.check([
        () => this.checkPostgres(),
        () => this.checkMigrations(),
        () => this.checkRedis(),
        () => this.checkCache(),
        () => this.checkBroker(),
        ...(this.replicas.count > 0 ? [() => this.checkReplicas()] : []),
        () => this.checkRelay(),
      ]);
      return { status, checks: details };
    } catch (error) {
      if (!(error instanceof ServiceUnavailableException)) throw error;
      const { status, details } = error.getResponse() as { status: string; details: object };
      const detail = status === 'shutting_down' ? 'The process is shutting down.' : undefined;
      throw notReady(detail, { ...RETRY_LATER, extensions: { checks: details } });
    }
  }

  private async checkPostgres(): Promise<HealthIndicatorResult> {
    return this.indicators
      .check('postgres')
      .attempt(() =>
        this.explain('postgres', withDeadline(CHECK_TIMEOUT_MS, 'SELECT 1', this.database.ping())),
      );
  }

  private async checkMigrations(): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check('migrations');
    const reading = withDeadline(
      CHECK_TIMEOUT_MS,
      'Reading the applied migrations',
      this.database.pendingMigrations(),
    );
    const pending = await this.explain('migrations', reading).catch(() => ['unknown']);
    return pending.length === 0 ? indicator.up() : indicator.down({ pending });
  }

  private async checkRedis(): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check('redis');
    if (!this.config.redisUrl) {
      return indicator.up({
        message: 'not configured: the cache is in the memory of this process',
      });
    }
    const ping = withDeadline(CHECK_TIMEOUT_MS, 'PING', this.store.ping());
    return this.explain('redis', ping).then(
      () => indicator.up(),
      () => indicator.degraded('unreachable: reads go to PostgreSQL'),
    );
  }

  /**
   * The response is for everybody: it has a stable reason. What the driver says, e.g. the address,
   * goes to the log, once for each outage.
   */
  private async explain<T>(part: string, check: Promise<T>): Promise<T> {
    try {
      const result = await check;
      this.failing.delete(part);
      return result;
    } catch (error) {
      if (!this.failing.has(part)) this.logger.warn(`The check ${part} failed: ${String(error)}`);
      this.failing.add(part);
      throw new Error(NO_ANSWER, { cause: error });
    }
  }

  /** A node without a cache answers correctly, at PostgreSQL's speed. */
  private checkCache(): HealthIndicatorResult {
    const indicator = this.indicators.check('cache');
    const { state } = this.membership;
    if (state === 'member') return indicator.up();
    return indicator.degraded(`${state}: ${MEMBERSHIP_STATES[state]}`);
  }

  /** As they were when they were last asked: a probe does not wait for a replica. */
  private checkReplicas(): HealthIndicatorResult {
    const indicator = this.indicators.check('replicas');
    const { count, unusedCount } = this.replicas;
    if (unusedCount === 0) return indicator.up();
    return indicator.degraded(
      `${unusedCount} of ${count} cannot be used: reads go to the others or to PostgreSQL, and ` +
        'the log has the reason',
    );
  }

  /** A partition that no relay serves is no fault of the broker. */
  private checkRelay(): HealthIndicatorResult {
    const indicator = this.indicators.check('relay');
    const { brokerState, stallReason } = this.relay;
    if (brokerState === 'off') return indicator.up({ message: 'not configured' });
    return stallReason === undefined ? indicator.up() : indicator.degraded(stallReason);
  }

  private checkBroker(): HealthIndicatorResult {
    const indicator = this.indicators.check('broker');
    switch (this.relay.brokerState) {
      case 'off':
        return indicator.up({ message: 'not configured: events stay in the outbox' });
      case 'connected':
        return indicator.up();
      case 'blocked':
        return indicator.degraded(
          'accepts no messages (memory or disk alarm): events wait in the outbox',
        );
      case 'disconnected':
        return indicator.degraded('unreachable: events wait in the outbox');
    }
  }
}
