/** The scenarios that rounds are made of: which faults, on which Redis, with which promise. */
import {
  ADDRESS_SCHEDULE,
  clockSchedule,
  clockSchedules,
  commitSchedule,
  CONFIGURATIONS,
  configurationSchedule,
  EVICTION_SCHEDULE,
  FAILOVER_SCHEDULE,
  fullNodeSchedules,
  linkSchedule,
  linkSchedules,
  LISTEN_SCHEDULE,
  POSTGRES_SCHEDULE,
  REDIS_SCHEDULE,
  SHARD_SCHEDULE,
  sharedNodeSchedules,
  type Times,
} from './schedules.js';
import type { SiteKind } from './redis-site.js';
import type { RoundOptions } from './round.js';

export type Scenario = Pick<
  RoundOptions,
  'name' | 'degradedWrites' | 'hasOutsideWriter' | 'schedules'
>;

/** Scenarios that follow each other on the same nodes. Different lanes run at the same time. */
export interface Lane {
  readonly site: SiteKind;
  readonly nodes: number;
  /** Whether it has a PostgreSQL server of its own, which may be killed. */
  readonly ownsPostgres: boolean;
  readonly scenarios: readonly Scenario[];
}

const SITE_NAMES: Readonly<Record<SiteKind, string>> = {
  'one server': 'one server',
  sentinels: 'Sentinels',
  cluster: 'Cluster',
  memory: 'memory',
};

const MODE_NAMES = {
  reject: 'degraded writes are rejected',
  wait: 'degraded writes wait',
} as const;

type Schedules = RoundOptions['schedules'];

function scenario(
  site: SiteKind,
  degradedWrites: Scenario['degradedWrites'],
  schedules: Schedules,
): Scenario {
  const hasOutsideWriter = site === 'one server' && degradedWrites === 'wait';
  const suffix = hasOutsideWriter ? ', with writes past the service' : '';
  const name = `${SITE_NAMES[site]}, ${MODE_NAMES[degradedWrites]}${suffix}`;
  return { name, degradedWrites, hasOutsideWriter, schedules };
}

/** Each kind of fault occurs. Every scenario has nodes of its own, since most of them wait. */
export function shortLanes(times: Times): Lane[] {
  const lane = (
    site: SiteKind,
    nodes: number,
    mode: Scenario['degradedWrites'],
    schedules: Schedules,
  ): Lane => ({
    site,
    nodes,
    ownsPostgres: site === 'memory',
    scenarios: [scenario(site, mode, schedules)],
  });
  return [
    lane('one server', 3, 'wait', [
      ...sharedNodeSchedules(2, times),
      ...[configurationSchedule(2, times), clockSchedule(2)],
      ...[linkSchedule(0, 'redis', times), linkSchedule(1, 'postgres', times)],
      commitSchedule(times),
      ...[REDIS_SCHEDULE, ADDRESS_SCHEDULE, EVICTION_SCHEDULE, LISTEN_SCHEDULE],
    ]),
    lane('sentinels', 2, 'reject', [
      FAILOVER_SCHEDULE,
      linkSchedule(0, 'sentinel 1', times),
      linkSchedule(0, 'sentinel 2', times),
    ]),
    lane('cluster', 2, 'wait', [SHARD_SCHEDULE]),
    lane('memory', 2, 'wait', [POSTGRES_SCHEDULE, clockSchedule(1)]),
  ];
}

const SENTINEL_LINKS = ['sentinel 1', 'sentinel 2', 'sentinel 3'] as const;

/** Every node gets every kind of fault. */
export function longLanes(times: Times): Lane[] {
  const lane = (
    site: SiteKind,
    nodes: number,
    modes: readonly Scenario['degradedWrites'][],
    schedules: Schedules,
  ): Lane => {
    const common = [
      ...linkSchedules(nodes, ['postgres'], times),
      ...clockSchedules(nodes),
      ...[commitSchedule(times), LISTEN_SCHEDULE],
    ];
    const all = [...common, ...schedules];
    return {
      site,
      nodes,
      ownsPostgres: site === 'memory',
      scenarios: modes.map((mode) => scenario(site, mode, all)),
    };
  };
  return [
    lane(
      'one server',
      3,
      ['reject', 'wait'],
      [
        ...linkSchedules(3, ['redis'], times),
        ...fullNodeSchedules(3, times, CONFIGURATIONS),
        ...[REDIS_SCHEDULE, ADDRESS_SCHEDULE, EVICTION_SCHEDULE],
      ],
    ),
    lane(
      'sentinels',
      2,
      ['reject', 'wait'],
      [
        ...linkSchedules(2, SENTINEL_LINKS, times),
        ...fullNodeSchedules(2, times, ['no REDIS_URL']),
        FAILOVER_SCHEDULE,
      ],
    ),
    lane(
      'cluster',
      2,
      ['reject', 'wait'],
      [...fullNodeSchedules(2, times, ['no REDIS_URL']), SHARD_SCHEDULE],
    ),
    lane('memory', 2, ['wait'], [...fullNodeSchedules(2, times), POSTGRES_SCHEDULE]),
  ];
}
