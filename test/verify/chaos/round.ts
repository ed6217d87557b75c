/**
 * One round: new rows, clients on every node, faults that the seed decides; then quiet, a
 * comparison of every node with the database, and the check of the history.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../support/eventually.js';
import { Random } from '../../support/random.js';
import { readAudit } from './audit.js';
import type { Cluster } from './cluster.js';
import { compareNodes } from './convergence.js';
import { excerptOf } from './excerpt.js';
import { type FaultSchedule, faultsOf } from './faults.js';
import { checkHistory, type CheckResult, type History } from './history-checker.js';
import {
  beginMicros,
  endMicros,
  type FaultRecord,
  READ_WIDTH,
  type Subject,
  type WriteEvent,
} from './history.js';
import { insertRows } from './new-rows.js';
import type { Message, Plan } from './node-messages.js';

/** How much the clients of each node do. */
export type Load = Omit<Plan, 'seed' | 'degradedWrites' | 'subjects' | 'ownerId'>;

export interface RoundOptions {
  readonly name: string;
  readonly seed: number;
  readonly degradedWrites: Plan['degradedWrites'];
  /** Whether somebody writes past the service, on rows of their own. */
  readonly hasOutsideWriter: boolean;
  readonly schedules: readonly FaultSchedule[];
  /** Lengthens the pauses between faults. */
  readonly pauseFactor: number;
  /** No fault begins after this time. Without it each schedule is passed through once. */
  readonly maxMs?: number;
  readonly load: Load;
  readonly fenceMs: number;
  readonly boundMs: number;
}

export interface RoundResult extends CheckResult {
  readonly name: string;
  readonly seed: number;
  readonly faults: readonly FaultRecord[];
  /** Milliseconds from the end of the load until every node showed the database's state. */
  readonly convergenceMs: number;
  readonly outcomes: Readonly<Record<string, number>>;
  /** Problems besides the history: a node that hangs, a row that a node never gets. */
  readonly failures: readonly string[];
  /** The history around each of the first violations, for people. */
  readonly excerpts: readonly string[];
}

/** Between the writes past the service, in milliseconds. */
const OUTSIDE_REST_MS = [20, 150] as const;
/** A round waits until this much was read and written, but no longer. */
const TRAFFIC = { reads: 200, writes: 20, timeoutMs: 10_000 } as const;

/** What the nodes report during a round. */
class Recording {
  readonly reads: Float64Array[] = [];
  readonly writes: WriteEvent[];
  readonly failures: string[] = [];
  private acknowledged = 0;

  constructor(writes: readonly WriteEvent[]) {
    this.writes = [...writes];
  }

  add(message: Message): void {
    if (message.type === 'reads') this.reads.push(message.reads);
    if (message.type === 'wrongRow') this.failures.push(message.description);
    if (message.type !== 'writes') return;
    this.writes.push(...message.writes);
    this.acknowledged += message.writes.filter(({ event }) => event === 'acknowledged').length;
  }

  /** Waits until a certain amount is read and written from now on, or a while has passed. */
  async awaitTraffic(): Promise<void> {
    const [readsBefore, acknowledgedBefore] = [this.readCount(), this.acknowledged];
    const hasTraffic = (): boolean =>
      this.readCount() - readsBefore >= TRAFFIC.reads &&
      this.acknowledged - acknowledgedBefore >= TRAFFIC.writes;
    await eventually('nodes read and write', hasTraffic, TRAFFIC.timeoutMs).catch(() => undefined);
  }

  private readCount(): number {
    return this.reads.reduce((sum, { length }) => sum + length / READ_WIDTH, 0);
  }
}

export async function runRound(cluster: Cluster, options: RoundOptions): Promise<RoundResult> {
  const random = new Random(options.seed);
  const { subjects, ownerId, writes } = await insertRows(cluster.client, random);
  const recording = new Recording(writes);
  cluster.faultRecords.length = 0;
  cluster.nodes.forEach((node, index) => {
    node.onMessage = (message) => recording.add(message);
    const seed = random.fork(`node ${index}`).between(1, 2 ** 31);
    const { degradedWrites, load } = options;
    node.begin({ seed, degradedWrites, subjects, ownerId, ...load });
  });

  // Faults begin when the nodes read and write, and the round ends when they do so again.
  await recording.awaitTraffic();
  await inflictFaults(cluster, options, subjects, recording.writes);
  await recording.awaitTraffic();
  const comparison = await compareNodes(cluster, subjects, recording.writes);

  const history: History = {
    subjects,
    reads: recording.reads,
    writes: recording.writes,
    committed: await readAudit(cluster.client, subjects),
    faults: [...cluster.faultRecords],
    degradedWrites: options.degradedWrites,
    fenceMs: options.fenceMs,
    boundMs: options.boundMs,
  };
  const result = checkHistory(history);
  return {
    ...result,
    name: options.name,
    seed: options.seed,
    faults: history.faults,
    convergenceMs: comparison.convergenceMs,
    outcomes: comparison.outcomes,
    failures: [...recording.failures, ...comparison.failures],
    excerpts: result.violations.map((violation) => excerptOf(violation, history)),
  };
}

/** Runs every schedule to its end, with writes past the service beside them, and heals. */
async function inflictFaults(
  cluster: Cluster,
  options: RoundOptions,
  subjects: readonly Subject[],
  writes: WriteEvent[],
): Promise<void> {
  const outside = new AbortController();
  const outsideWrites = options.hasOutsideWriter
    ? writeOutside(cluster, options.seed, subjects, writes, outside.signal)
    : undefined;
  try {
    await Promise.all(
      options.schedules.map((schedule, index) => {
        const random = new Random(options.seed).fork(`schedule ${index}`);
        return runSchedule(cluster, schedule, random, options);
      }),
    );
    await cluster.heal();
  } finally {
    outside.abort();
    await outsideWrites;
  }
}

async function runSchedule(
  cluster: Cluster,
  schedule: FaultSchedule,
  random: Random,
  { pauseFactor, maxMs }: RoundOptions,
): Promise<void> {
  const began = performance.now();
  let remaining = maxMs === undefined ? schedule.faults.length : Infinity;
  for (const { pauseMs, fault } of faultsOf(schedule, random, pauseFactor)) {
    if (remaining === 0) return;
    remaining--;
    const remainingMs = (maxMs ?? Infinity) - (performance.now() - began);
    if (pauseMs > remainingMs) {
      await sleep(remainingMs);
      return;
    }
    await sleep(pauseMs);
    await cluster.inflict(fault);
  }
}

/** Updates rows in SQL, as somebody in psql would. */
async function writeOutside(
  { client }: Cluster,
  seed: number,
  subjects: readonly Subject[],
  writes: WriteEvent[],
  signal: AbortSignal,
): Promise<void> {
  const random = new Random(seed).fork('outside');
  const rows = [...subjects.keys()].filter((index) => subjects[index]?.kind === 'outside-order');
  for (let stamp = 1_001; !signal.aborted; stamp++) {
    const subject = random.pick(rows);
    writes.push({ event: 'begun', stamp, at: beginMicros() });
    const { rows: updated } = await client.query<{ version: string }>(
      'UPDATE orders SET note = $2 WHERE id = $1 RETURNING version',
      [subjects[subject]?.id, String(stamp)],
    );
    const written = [[subject, Number(updated[0]?.version)]] as const;
    const at = endMicros();
    writes.push({ event: 'acknowledged', stamp, at, invalidated: 'outside', written });
    await sleep(random.between(...OUTSIDE_REST_MS));
  }
}
