/** The scenarios that rounds are made of: which faults, on which Redis, with which promise. */
import {
  EVICTION_SCHEDULE,
  FAILOVER_SCHEDULE,
  type FaultSchedule,
  fullNodeSchedules,
  type LinkName,
  linkSchedule,
  LISTEN_SCHEDULE,
  nodeSchedules,
  REDIS_SCHEDULE,
  type Times,
} from './faults.js';
import type { RedisSite } from './redis-faults.js';
import type { RoundOptions } from './round.js';

export type Scenario = Pick<
  RoundOptions,
  'name' | 'degradedWrites' | 'hasOutsideWriter' | 'schedules'
>;

export const NODE_COUNTS = { 'one server': 3, sentinels: 2 } as const;

type Form = 'short' | 'long';

/** In the short form each kind of fault occurs; in the long form every node gets every kind. */
export function scenariosOf(site: RedisSite['kind'], form: Form, times: Times): Scenario[] {
  const isLong = form === 'long';
  return site === 'sentinels'
    ? [sentinelScenario(isLong, times)]
    : [rejectScenario(isLong, times), allowScenario(isLong, times)];
}

function sentinelScenario(isLong: boolean, times: Times): Scenario {
  const nodes = NODE_COUNTS.sentinels;
  const longSchedules = [
    ...linkSchedules(nodes, ['postgres'], times),
    ...fullNodeSchedules(nodes, times),
  ];
  return {
    name: 'Sentinels, writes rejected without Redis',
    degradedWrites: 'reject',
    hasOutsideWriter: false,
    schedules: [FAILOVER_SCHEDULE, ...(isLong ? longSchedules : [])],
  };
}

function rejectScenario(isLong: boolean, times: Times): Scenario {
  const nodes = NODE_COUNTS['one server'];
  return {
    name: 'one server, writes rejected without Redis',
    degradedWrites: 'reject',
    hasOutsideWriter: false,
    schedules: [
      ...linkSchedules(nodes, ['redis', 'postgres'], times),
      ...(isLong ? fullNodeSchedules(nodes, times) : nodeSchedules(nodes, times, true)),
      ...[REDIS_SCHEDULE, EVICTION_SCHEDULE, LISTEN_SCHEDULE],
    ],
  };
}

function allowScenario(isLong: boolean, times: Times): Scenario {
  const nodes = NODE_COUNTS['one server'];
  return {
    name: 'one server, writes allowed without Redis, and writes past the service',
    degradedWrites: 'wait',
    hasOutsideWriter: true,
    schedules: [
      ...linkSchedules(isLong ? nodes : 1, ['redis', 'postgres'], times),
      ...(isLong ? nodeSchedules(nodes, times, false) : []),
      ...[REDIS_SCHEDULE, EVICTION_SCHEDULE, LISTEN_SCHEDULE],
    ],
  };
}

function linkSchedules(nodes: number, links: readonly LinkName[], times: Times): FaultSchedule[] {
  return Array.from({ length: nodes }, (_, node) =>
    links.map((link) => linkSchedule(node, link, times)),
  ).flat();
}
