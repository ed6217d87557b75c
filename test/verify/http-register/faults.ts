/** What goes wrong between and around the nodes of the service. */
import type { Fault, FaultSchedule } from '../chaos/faults.js';
import { EVICTION_SCHEDULE, linkSchedule, REDIS_SCHEDULE, type Times } from '../chaos/schedules.js';

/** SIGKILL, and a new start after `ms`. */
export interface KillFault {
  readonly on: 'process';
  readonly kind: 'node killed';
  readonly node: number;
  readonly ms: number;
}

export type HttpFault = Fault | KillFault;

/** The service's own times are those of production; links are half-open for as long as in tests. */
const TIMES: Times = { fenceMs: 15_000, divisor: 5 };

const killSchedule = (node: number): FaultSchedule<HttpFault> => ({
  faults: [
    (random) => ({ on: 'process', kind: 'node killed', node, ms: random.between(0, 1_000) }),
  ],
  pauseMs: [500, 2_000],
});

/** Every server's links are disturbed, one link of each kind. */
export const SHORT_SCHEDULES: readonly FaultSchedule<HttpFault>[] = [
  linkSchedule(0, 'redis', TIMES),
  linkSchedule(1, 'postgres', TIMES),
  linkSchedule(2, 'client', TIMES),
  killSchedule(2),
  ...[REDIS_SCHEDULE, EVICTION_SCHEDULE],
];

/** Every link of every node, and every node dies. */
export const LONG_SCHEDULES: readonly FaultSchedule<HttpFault>[] = [
  ...[0, 1, 2].flatMap((node) => [
    ...(['redis', 'postgres', 'client'] as const).map((link) => linkSchedule(node, link, TIMES)),
    killSchedule(node),
  ]),
  ...[REDIS_SCHEDULE, EVICTION_SCHEDULE],
];
