/**
 * Rounds of scenarios, in several lanes at the same time: in the short form until each kind of
 * fault was inflicted, in the long form until enough reads were checked and every scenario had a
 * round. The result is counts; a history that breaks a promise becomes a file.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_CACHE_TIMINGS } from '../../../src/platform/cache/cache-timings.js';
import { Random } from '../../support/random.js';
import { Cluster } from './cluster.js';
import type { Exemption, Rule } from './history-checker.js';
import { type Load, runRound, type RoundOptions, type RoundResult } from './round.js';
import { type Lane, longLanes, type Scenario, shortLanes } from './scenarios.js';
import type { Times } from './schedules.js';

export interface ChaosOptions {
  readonly form: 'short' | 'long';
  readonly seed: number;
  /** Of the long form: reads to check. */
  readonly reads: number;
  /** The value of CACHE_NEAR on every node. */
  readonly near: string;
  /** Where histories that break a promise are written. */
  readonly failuresFolder: string;
  readonly log: (line: string) => void;
}

/** The sums over all rounds of one scenario. */
export interface ScenarioTotals {
  rounds: number;
  reads: number;
  acknowledged: number;
  failed: number;
  violations: Partial<Record<Rule, number>>;
  failures: string[];
  exemptions: Record<string, Exemption>;
  faults: Record<string, number>;
  outcomes: Record<string, number>;
  worstConvergenceMs: number;
}

export interface ChaosReport {
  readonly seed: number;
  readonly seconds: number;
  /** By scenario. */
  readonly totals: Readonly<Record<string, ScenarioTotals>>;
  /** The histories that were written. */
  readonly files: readonly string[];
}

/** In the short form, seconds show what otherwise takes half a minute. */
const TIMES_DIVISOR = { short: 5, long: 1 } as const;
/** How much longer than a fence an exempt read may be late. */
const BOUND_MARGIN_MS = 10_000;
const LONG_ROUND_MS = 30_000;
/** The share of the writes that rest with their fences, and of the fence's time, at most. */
const RESTS = { restingShare: 0.05, maxFenceShare: 0.4 };
/** Little, so that the processor is there for the faults: four clusters run at once. */
const SHORT_LOAD = { readers: 2, writers: 2, maxReadRestMs: 150, maxWriteRestMs: 200 };
const MAX_LOGGED_CHARACTERS = 6_000;

/** TEST_POSTGRES_URL must name a server (test/support/postgres.ts). */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const run = new ChaosRun(options);
  await run.runAllLanes();
  return run.report();
}

class ChaosRun {
  private readonly began = performance.now();
  private readonly totals: Record<string, ScenarioTotals> = {};
  private readonly files: string[] = [];
  private readonly times: Times;

  constructor(private readonly options: ChaosOptions) {
    const divisor = TIMES_DIVISOR[options.form];
    this.times = { fenceMs: DEFAULT_CACHE_TIMINGS.fenceMs / divisor, divisor };
  }

  /** @throws the first error of a lane, when all have ended */
  async runAllLanes(): Promise<void> {
    const lanes = this.options.form === 'short' ? shortLanes(this.times) : longLanes(this.times);
    const results = await Promise.allSettled(lanes.map((lane) => this.runLane(lane)));
    for (const result of results) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  report(): ChaosReport {
    const { totals, files } = this;
    return { seed: this.options.seed, seconds: this.seconds(), totals, files };
  }

  private async runLane({ scenarios, ...lane }: Lane): Promise<void> {
    const random = new Random(this.options.seed).fork(scenarios[0]?.name ?? '');
    const timesDivisor = this.times.divisor;
    let cluster: Cluster | undefined;
    try {
      const { near } = this.options;
      cluster = await Cluster.start({ ...lane, timesDivisor, near, random });
      for (let round = 0; round < scenarios.length || this.needsReads(); round++) {
        const scenario = scenarios[round % scenarios.length] as Scenario;
        this.add(await runRound(cluster, this.roundOptions(scenario, random)));
      }
    } finally {
      await cluster?.stop();
    }
  }

  private needsReads(): boolean {
    return this.options.form === 'long' && this.checkedReads() < this.options.reads;
  }

  private roundOptions(scenario: Scenario, random: Random): RoundOptions {
    const { fenceMs } = this.times;
    const common = {
      ...scenario,
      seed: random.between(1, 2 ** 31),
      fenceMs,
      boundMs: fenceMs + BOUND_MARGIN_MS,
    };
    const { restingShare, maxFenceShare } = RESTS;
    const rests = { restingShare, maxFenceRestMs: Math.round(maxFenceShare * fenceMs) };
    if (this.options.form === 'short') {
      return { ...common, pauseFactor: 1, load: { ...SHORT_LOAD, ...rests } };
    }
    const pauseFactor = random.pick([3, 10, 30]);
    const load = { ...heavyLoad(random), ...rests };
    return { ...common, maxMs: LONG_ROUND_MS, pauseFactor, load };
  }

  private add(result: RoundResult): void {
    addTo((this.totals[result.name] ??= emptyTotals()), result);
    const isBroken = result.violations.length > 0 || result.failures.length > 0;
    if (isBroken) this.files.push(this.writeFailure(result));
    const reads = this.checkedReads();
    const rate = Math.round(reads / this.seconds());
    const { name, seed, acknowledged, faults } = result;
    this.options.log(
      `${isBroken ? 'BROKEN' : 'ok'}  ${name} (seed ${seed}): ${result.reads} reads, ` +
        `${acknowledged} writes, ${faults.length} faults; in all ${reads} reads, ${rate}/s`,
    );
  }

  /** @returns the file */
  private writeFailure(result: RoundResult): string {
    const { failuresFolder, seed, log } = this.options;
    mkdirSync(failuresFolder, { recursive: true });
    const file = join(failuresFolder, `${seed}-${result.seed}.txt`);
    const text = [
      `${result.name}, seed ${result.seed} of the run with seed ${seed}`,
      JSON.stringify(result.violationCounts),
      ...result.failures,
      ...result.excerpts,
      'Faults of the round, in microseconds:',
      ...result.faults.map(({ kind, details, from, to }) => `${from} to ${to}: ${kind} ${details}`),
    ].join('\n\n');
    writeFileSync(file, text);
    log(text.slice(0, MAX_LOGGED_CHARACTERS));
    return file;
  }

  private checkedReads(): number {
    return Object.values(this.totals).reduce((sum, { reads }) => sum + reads, 0);
  }

  private seconds(): number {
    return (performance.now() - this.began) / 1000;
  }
}

function heavyLoad(random: Random): Omit<Load, 'restingShare' | 'maxFenceRestMs'> {
  return {
    readers: random.pick([20, 60, 120]),
    maxReadRestMs: random.pick([0, 5, 20]),
    writers: random.between(2, 5),
    maxWriteRestMs: random.pick([5, 20, 60]),
  };
}

function emptyTotals(): ScenarioTotals {
  return {
    rounds: 0,
    reads: 0,
    acknowledged: 0,
    failed: 0,
    violations: {},
    failures: [],
    exemptions: {},
    faults: {},
    outcomes: {},
    worstConvergenceMs: 0,
  };
}

function addTo(totals: ScenarioTotals, result: RoundResult): void {
  totals.rounds++;
  totals.reads += result.reads;
  totals.acknowledged += result.acknowledged;
  totals.failed += result.failed;
  totals.failures.push(...result.failures);
  totals.worstConvergenceMs = Math.max(totals.worstConvergenceMs, result.convergenceMs);
  addCounts(totals.violations, result.violationCounts);
  addCounts(totals.outcomes, result.outcomes);
  for (const { kind } of result.faults) addCounts(totals.faults, { [kind]: 1 });
  for (const [reason, { reads, worstMs }] of Object.entries(result.exemptions)) {
    const sum = (totals.exemptions[reason] ??= { reads: 0, worstMs: 0 });
    sum.reads += reads;
    sum.worstMs = Math.max(sum.worstMs, worstMs);
  }
}

function addCounts(
  sums: Partial<Record<string, number>>,
  counts: Readonly<Partial<Record<string, number>>>,
): void {
  for (const [name, count] of Object.entries(counts)) {
    sums[name] = (sums[name] ?? 0) + (count ?? 0);
  }
}
