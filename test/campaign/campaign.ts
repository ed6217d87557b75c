/**
 * The campaign: rounds of a few kinds, on one Redis server and under Sentinels at the same time, until each kind of fault was
 * inflicted (short) or enough reads were judged (long). Its result is counts; a history that breaks a promise becomes a file.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { migrateDatabase } from '../../src/database/migrate.js';
import { createTestDatabase, startSharedPostgres } from '../support/postgres.js';
import { Cluster, type RedisSite } from './cluster.js';
import {
  evictionLane,
  failoverLane,
  hardNodeLanes,
  type Lane,
  linkLane,
  listenLane,
  nodeLanes,
  redisLane,
  type Times,
} from './faults.js';
import { Random } from './random.js';
import { runRound, type RoundOptions, type RoundResult } from './round.js';

export interface CampaignOptions {
  readonly form: 'short' | 'long';
  readonly seed: number;
  /** Of the long form. */
  readonly reads: number;
  readonly folder: string;
  readonly timesDividedBy: number;
  /** Where failing histories go. */
  readonly failuresFolder: string;
  readonly log: (line: string) => void;
}

/** What all rounds of one name came to. */
export interface Sum {
  rounds: number;
  reads: number;
  acknowledged: number;
  failed: number;
  violations: Record<string, number>;
  failures: string[];
  excused: Record<string, { reads: number; worstMs: number }>;
  faults: Record<string, number>;
  outcomes: Record<string, number>;
  worstSettledMs: number;
}

export interface CampaignReport {
  readonly seed: number;
  readonly seconds: number;
  readonly sums: Readonly<Record<string, Sum>>;
  readonly files: readonly string[];
}

/** src/cache/invalidation.service.ts, FENCE_MS. */
const FENCE_MS = 15_000;
const NODES = { 'one server': 3, sentinels: 2 } as const;

type Kind = Pick<RoundOptions, 'name' | 'degradedWrites' | 'byHand'> & {
  readonly lanes: (times: Times) => readonly Lane[];
};

const linkLanes = (nodes: number, links: readonly ('redis' | 'postgres')[], times: Times): Lane[] =>
  Array.from({ length: nodes }, (_, node) =>
    links.map((link) => linkLane(node, link, times)),
  ).flat();

/** The kinds of rounds of each site; `lanes` of the short form have each fault once, of the long form every node everything. */
function kindsOf(site: RedisSite['kind'], form: CampaignOptions['form']): Kind[] {
  const nodes = NODES[site];
  const processes = (times: Times, stops: boolean): Lane[] =>
    form === 'long' && stops ? hardNodeLanes(nodes, times) : nodeLanes(nodes, times, { stops });
  if (site === 'sentinels') {
    return [
      {
        ...{
          name: 'Sentinels, writes rejected without Redis',
          degradedWrites: 'reject',
          byHand: false,
        },
        lanes: (times) => [
          failoverLane,
          ...(form === 'long'
            ? [...linkLanes(nodes, ['postgres'], times), ...processes(times, true)]
            : []),
        ],
      },
    ];
  }
  return [
    {
      ...{
        name: 'one server, writes rejected without Redis',
        degradedWrites: 'reject',
        byHand: false,
      },
      lanes: (times) => [
        ...linkLanes(nodes, ['redis', 'postgres'], times),
        ...processes(times, true),
        ...[redisLane, evictionLane, listenLane],
      ],
    },
    {
      ...{
        name: 'one server, writes allowed without Redis, and psql',
        degradedWrites: 'allow',
        byHand: true,
      },
      lanes: (times) => [
        ...linkLanes(form === 'long' ? nodes : 1, ['redis', 'postgres'], times),
        ...(form === 'long' ? processes(times, false) : []),
        ...[redisLane, evictionLane, listenLane],
      ],
    },
  ];
}

export async function runCampaign(options: CampaignOptions): Promise<CampaignReport> {
  const { seed, form, log } = options;
  const began = performance.now();
  const sums: Record<string, Sum> = {};
  const files: string[] = [];
  const own = process.env.TEST_POSTGRES_URL
    ? undefined
    : await startSharedPostgres(migrateDatabase);
  if (own) process.env.TEST_POSTGRES_URL = own.url;
  const done = (): number => Object.values(sums).reduce((sum, { reads }) => sum + reads, 0);
  const take = (result: RoundResult): void => {
    add((sums[result.name] ??= emptySum()), result);
    const broken = Object.values(result.violated).length > 0 || result.failures.length > 0;
    if (broken) files.push(writeFailure(result, options));
    const seconds = (performance.now() - began) / 1000;
    log(
      `${broken ? 'BROKEN' : 'ok'}  ${result.name} (seed ${result.seed}): ${result.reads} reads, ` +
        `${result.acknowledged} writes, ${result.happened.length} faults; in all ${done()} reads, ${Math.round(done() / seconds)}/s`,
    );
  };
  try {
    const sites: RedisSite['kind'][] = ['one server', 'sentinels'];
    const runs = sites.map((site) =>
      runSite(site, new Random(seed).fork(site), options, take, done),
    );
    const results = await Promise.allSettled(runs);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  } finally {
    await own?.stop();
  }
  log(`campaign ${form}, seed ${seed}: over`);
  return { seed, seconds: (performance.now() - began) / 1000, sums, files };
}

async function runSite(
  site: RedisSite['kind'],
  random: Random,
  { form, reads, folder, timesDividedBy }: CampaignOptions,
  take: (result: RoundResult) => void,
  done: () => number,
): Promise<void> {
  const database = await createTestDatabase();
  const times: Times = { fenceMs: FENCE_MS / timesDividedBy, dividedBy: timesDividedBy };
  let cluster: Cluster | undefined;
  try {
    cluster = await Cluster.start({
      site,
      folder,
      databaseUrl: database.url,
      nodes: NODES[site],
      random,
    });
    const kinds = kindsOf(site, form);
    const rounds = form === 'short' ? kinds.length : Infinity;
    for (let number = 0; number < rounds && (form === 'short' || done() < reads); number++) {
      const { lanes, ...kind } = kinds[number % kinds.length] as Kind;
      take(
        await runRound(cluster, {
          ...{
            ...kind,
            lanes: lanes(times),
            seed: random.between(1, 2 ** 31),
            fenceMs: times.fenceMs,
          },
          ...(form === 'short'
            ? { calm: 1.5, load: { readers: 12, writers: 3, readRestMs: 6, writeRestMs: 30 } }
            : { ...{ ms: 30_000, calm: random.pick([3, 10, 30]) }, load: heavyLoad(random) }),
          boundMs: times.fenceMs + 10_000,
        }),
      );
    }
  } finally {
    await cluster?.stop();
    await database.drop();
  }
}

const heavyLoad = (random: Random): RoundOptions['load'] => ({
  ...{ readers: random.pick([60, 120, 200]), readRestMs: 0 },
  ...{ writers: random.between(2, 5), writeRestMs: random.pick([5, 20, 60]) },
});

const emptySum = (): Sum => ({
  ...{ rounds: 0, reads: 0, acknowledged: 0, failed: 0, worstSettledMs: 0 },
  ...{ violations: {}, failures: [], excused: {}, faults: {}, outcomes: {} },
});

function add(sum: Sum, result: RoundResult): void {
  const count = (counts: Record<string, number>, name: string, by: number): void => {
    counts[name] = (counts[name] ?? 0) + by;
  };
  sum.rounds++;
  sum.reads += result.reads;
  sum.acknowledged += result.acknowledged;
  sum.failed += result.failed;
  sum.failures.push(...result.failures);
  sum.worstSettledMs = Math.max(sum.worstSettledMs, Math.round(result.settledMs));
  for (const [rule, times] of Object.entries(result.violated)) count(sum.violations, rule, times);
  for (const { kind } of result.happened) count(sum.faults, kind, 1);
  for (const [outcome, times] of Object.entries(result.outcomes))
    count(sum.outcomes, outcome, times);
  for (const [reason, { reads, worstMs }] of Object.entries(result.excused)) {
    const excused = (sum.excused[reason] ??= { reads: 0, worstMs: 0 });
    excused.reads += reads;
    excused.worstMs = Math.max(excused.worstMs, worstMs);
  }
}

function writeFailure(result: RoundResult, { failuresFolder, seed, log }: CampaignOptions): string {
  mkdirSync(failuresFolder, { recursive: true });
  const file = join(failuresFolder, `${seed}-${result.seed}.txt`);
  const text = [
    `${result.name}, seed ${result.seed} of campaign ${seed}`,
    JSON.stringify(result.violated),
    ...result.failures,
    ...result.excerpts,
    'Faults of the round, in microseconds:',
    ...result.happened.map(({ kind, what, from, to }) => `${from} to ${to}: ${kind} ${what}`),
  ].join('\n\n');
  writeFileSync(file, text);
  log(text.slice(0, 6_000));
  return file;
}
