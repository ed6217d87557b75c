/**
 * Sheds requests while the process itself is short of time or memory: 503 overloaded. Probes and
 * metrics still answer.
 */
import { getHeapStatistics } from 'node:v8';
import underPressure from '@fastify/under-pressure';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { problems, RETRY_LATER } from '../problems/problem.js';
import { isForOperators } from '../server/route-settings.decorator.js';
import type { Bounds } from './bounds.js';
import type { Refusals } from './refusals.js';

/** Samples in a row, one a second: a single one may be a pause, or the start of the process. */
const MIN_SLOW_SAMPLES = 3;
/** Slow samples that are further apart are not in a row. */
const MAX_SAMPLE_DISTANCE_MS = 10_000;

/** Whether the event loop is slow for longer than a moment. */
export class SlowSamples {
  private count = 0;
  private lastDelayMs = 0;
  private lastSeenAtMs = 0;

  /** @param delayMs of the last sample that was slow. All requests of a second see the same one. */
  isLasting(delayMs: number, nowMs: number): boolean {
    const isNew = delayMs !== this.lastDelayMs;
    const isInRow = nowMs - this.lastSeenAtMs < MAX_SAMPLE_DISTANCE_MS;
    if (!isInRow) this.count = 1;
    else if (isNew) this.count++;
    this.lastDelayMs = delayMs;
    this.lastSeenAtMs = nowMs;
    return this.count >= MIN_SLOW_SAMPLES;
  }
}

/**
 * Call before any route is registered.
 * @param countRefused counts a refused request against the limit of its address
 */
export async function shedUnderPressure(
  fastify: FastifyInstance,
  { eventLoopDelayMs, memoryShare }: Bounds,
  refusals: Refusals,
  countRefused: (request: FastifyRequest) => void,
): Promise<void> {
  const slowSamples = new SlowSamples();
  await fastify.register(underPressure, {
    maxEventLoopDelay: eventLoopDelayMs,
    maxHeapUsedBytes: getHeapStatistics().heap_size_limit * memoryShare,
    maxRssBytes: containerBytes() * memoryShare,
    // A promise: the plugin does not pass on what the function itself throws.
    pressureHandler: async (request, _, type, value) => {
      if (isForOperators(request)) return;
      const isTime = type === underPressure.TYPE_EVENT_LOOP_DELAY;
      if (isTime && !slowSamples.isLasting(value ?? 0, performance.now())) return;
      refusals.requests.inc({ bound: 'pressure' });
      countRefused(request);
      throw problems.overloaded(undefined, RETRY_LATER);
    },
  });
}

/** Memory that the container may use; 0 when nothing limits it. */
function containerBytes(): number {
  const bytes = process.constrainedMemory();
  return Number.isSafeInteger(bytes) ? bytes : 0;
}
