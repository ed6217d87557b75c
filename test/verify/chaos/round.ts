/**
 * One round: fresh rows, clients on every node, lanes of faults that the seed decides; then quiet, a look at whether every node
 * shows what the database has, and the checker's judgement. Fresh rows make each round's history complete in itself, so that a
 * campaign of any length needs the memory of one round.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Committed, type History, judge, type Verdict, type Violation } from './checker.js';
import type { Cluster } from './cluster.js';
import { along, type Lane } from './faults.js';
import {
  type Happened,
  kindOf,
  micros,
  microsUp,
  type Plan,
  READ_WIDTH,
  type Subject,
  type WriteEvent,
} from './history.js';
import { Random } from './random.js';

export interface RoundOptions {
  readonly name: string;
  readonly seed: number;
  readonly degradedWrites: 'allow' | 'reject';
  /** Whether somebody writes in psql, on rows of their own. */
  readonly byHand: boolean;
  readonly lanes: readonly Lane[];
  /** How many times longer than a lane says it is quiet between two of its faults. */
  readonly calm: number;
  /** Lanes begin no fault after this; without it each is passed through once. */
  readonly ms?: number;
  readonly load: Pick<Plan, 'readers' | 'writers' | 'readRestMs' | 'writeRestMs'>;
  readonly fenceMs: number;
  readonly boundMs: number;
}

export interface RoundResult extends Verdict {
  readonly name: string;
  readonly seed: number;
  readonly happened: readonly Happened[];
  /** Milliseconds until all nodes showed the database's state, after the last fault. */
  readonly settledMs: number;
  readonly outcomes: Readonly<Record<string, number>>;
  /** What went wrong beside the history: a node that hangs, a row that nobody catches up with. */
  readonly failures: readonly string[];
  /** The history around the first violations, for people. */
  readonly excerpts: readonly string[];
}

const COUNTS = { o: 16, s: 5, u: 5, h: 3 } as const;
const ITEMS = JSON.stringify([{ sku: 'A', name: 'a', quantity: 1, unitPrice: 1 }]);
const SHOPPERS = 4;
const SPARE_NAMES = 3;
/** How long whoever writes by hand rests, in milliseconds. */
const HAND_REST_MS = [20, 150] as const;
/** Until all nodes must show the database's state: generous, since a busy machine counts as well. */
const SETTLE_MS = 60_000;
const TRAFFIC = { reads: 1_000, writes: 20, withinMs: 10_000 } as const;
const EXCERPT = { reads: 30, beforeMs: 300 } as const;

export async function runRound(cluster: Cluster, options: RoundOptions): Promise<RoundResult> {
  const random = new Random(options.seed);
  const rows = await freshRows(cluster, random);
  const { subjects, owner } = rows;
  const reads: Float64Array[] = [];
  const writes: WriteEvent[] = [...rows.known];
  const failures: string[] = [];
  cluster.happened.length = 0;
  cluster.nodes.forEach((node, index) => {
    node.onReport = (report) => {
      if (report.said === 'reads') reads.push(report.reads);
      else if (report.said === 'writes') writes.push(...report.writes);
      else if (report.said === 'wrong row') failures.push(report.what);
    };
    const seed = random.fork(`node ${index}`).between(1, 2 ** 31);
    node.begin({ seed, degradedWrites: options.degradedWrites, subjects, owner, ...options.load });
  });
  // Each storm comes over nodes that read and write, and is over when they do so again.
  await traffic(reads, writes);
  await storm(cluster, options, subjects, writes);
  await traffic(reads, writes);
  const settled = await settle(cluster, subjects, writes, failures);
  const { happened } = cluster;
  const history: History = {
    ...{ subjects, reads, writes, happened, committed: await committed(cluster, subjects) },
    ...{
      degradedWrites: options.degradedWrites,
      fenceMs: options.fenceMs,
      boundMs: options.boundMs,
    },
  };
  const verdict = judge(history);
  return {
    ...verdict,
    ...settled,
    ...{ name: options.name, seed: options.seed, happened: [...happened], failures },
    excerpts: verdict.violations.map((violation) => excerpt(violation, history)),
  };
}

type Rows = Pick<Plan, 'subjects' | 'owner'> & { readonly known: readonly WriteEvent[] };

/** New rows that no cache knows, and the events of their making. */
async function freshRows({ psql }: Cluster, random: Random): Promise<Rows> {
  const tag = random.between(0, 2 ** 31).toString(36);
  const subjects: Subject[] = [];
  const known: WriteEvent[] = [];
  const owner = randomUUID();
  const user = (id: string, name: string, stamp: number): Promise<unknown> =>
    psql.query('INSERT INTO users (id, username, email) VALUES ($1, $2, $3)', [
      id,
      name,
      `${stamp}@${name}.test`,
    ]);
  const names = Array.from({ length: COUNTS.u + SPARE_NAMES }, (_, index) => `n${index}-${tag}`);

  await psql.query('BEGIN');
  await psql.query(`SET LOCAL holdfast.fenced = 'on'`);
  await psql.query('TRUNCATE campaign_audit');
  await user(owner, `owner-${tag}`, 0);
  let stamp = 0;
  for (const [kind, count] of Object.entries(COUNTS)) {
    for (let index = 0; index < count; index++) {
      const id = randomUUID();
      known.push({ event: 'begun', stamp: ++stamp, at: 0 });
      if (kind === 'u') await user(id, names[index] as string, stamp);
      else if (kind === 's') {
        await psql.query(
          `INSERT INTO sessions (id, user_id, token_hash, user_agent, last_seen_at, expires_at)
           VALUES ($1, $2, encode(sha256(convert_to($1::uuid::text, 'UTF8')), 'hex'), $3, now(), now() + interval '1 hour')`,
          [id, owner, String(stamp)],
        );
      } else {
        await psql.query(
          `INSERT INTO orders (id, user_id, status, currency, items, total, note) VALUES ($1, $2, 'placed', 'EUR', $4, 1, $3)`,
          [id, owner, String(stamp), ITEMS],
        );
      }
      subjects.push({ name: `${kind}${index}`, id });
    }
  }
  for (let index = 0; index < SHOPPERS; index++) {
    const id = randomUUID();
    await user(id, `c${index}-${tag}`, 0);
    subjects.push({ name: `c${index}`, id });
  }
  await psql.query('COMMIT');
  names.forEach((id, index) => subjects.push({ name: `n${index}`, id }));
  for (const { subject, version, stamp: made } of await committed({ psql }, subjects)) {
    known.push({
      event: 'acknowledged',
      stamp: made,
      at: 0,
      how: 'fenced',
      written: [[subject, version]],
    });
  }
  return { subjects, owner, known };
}

/** Until so much more was read and written, or a bound is reached. */
async function traffic(
  reads: readonly Float64Array[],
  writes: readonly WriteEvent[],
): Promise<void> {
  const read = (): number => reads.reduce((sum, { length }) => sum + length / READ_WIDTH, 0);
  const acknowledged = (): number =>
    writes.filter(({ event, at }) => event === 'acknowledged' && at > 0).length;
  const [readBefore, acknowledgedBefore] = [read(), acknowledged()];
  for (const deadline = Date.now() + TRAFFIC.withinMs; Date.now() < deadline; await sleep(20)) {
    if (
      read() - readBefore >= TRAFFIC.reads &&
      acknowledged() - acknowledgedBefore >= TRAFFIC.writes
    )
      return;
  }
}

/** The faults, until every lane has come to its end, and the writes by hand beside them. */
async function storm(
  cluster: Cluster,
  { lanes, calm, ms, seed, byHand }: RoundOptions,
  subjects: readonly Subject[],
  writes: WriteEvent[],
): Promise<void> {
  const began = performance.now();
  let over = false;
  const runLane = async (lane: Lane, index: number): Promise<void> => {
    let left = ms === undefined ? lane.faults.length : Infinity;
    for (const { quietMs, fault } of along(lane, new Random(seed).fork(`lane ${index}`), calm)) {
      if (left-- <= 0) return;
      if (ms !== undefined && performance.now() - began + quietMs > ms)
        return sleep(ms - (performance.now() - began), undefined);
      await sleep(quietMs);
      await cluster.inflict(fault);
    }
  };
  const hands = [...subjects.keys()].filter((index) => kindOf(subjects[index] as Subject) === 'h');
  const writeByHand = async (): Promise<void> => {
    const random = new Random(seed).fork('hands');
    for (let stamp = 1_000; byHand && !over; await sleep(random.between(...HAND_REST_MS))) {
      const subject = random.pick(hands);
      writes.push({ event: 'begun', stamp: ++stamp, at: micros() });
      const { rows } = await cluster.psql.query<{ version: string }>(
        'UPDATE orders SET note = $2 WHERE id = $1 RETURNING version',
        [subjects[subject]?.id, String(stamp)],
      );
      const written = [[subject, Number(rows[0]?.version)]] as const;
      writes.push({ event: 'acknowledged', stamp, at: microsUp(), how: 'by hand', written });
    }
  };
  const byHands = writeByHand();
  try {
    await Promise.all(lanes.map(runLane));
    await cluster.heal();
  } finally {
    over = true;
    await byHands;
  }
}

/** Stops the load, then asks every node for every row until all show what the database has. */
async function settle(
  cluster: Cluster,
  subjects: readonly Subject[],
  writes: readonly WriteEvent[],
  failures: string[],
): Promise<Pick<RoundResult, 'settledMs' | 'outcomes'>> {
  const outcomes: Record<string, number> = {};
  for (const [index, ended] of (
    await Promise.all(cluster.nodes.map((node) => node.end()))
  ).entries()) {
    if (!ended) failures.push(`node ${index} does not answer`);
    else if (ended.hanging > 0)
      failures.push(`${ended.hanging} calls on node ${index} do not come back`);
    outcomes['failed reads'] = (outcomes['failed reads'] ?? 0) + (ended?.failedReads ?? 0);
    for (const [outcome, count] of Object.entries(ended?.outcomes ?? {})) {
      outcomes[outcome] = (outcomes[outcome] ?? 0) + count;
    }
  }
  // A newest version that nobody acknowledged may be shown or not: its writer died, and nobody was told.
  const acknowledged = new Map<number, Set<number>>();
  for (const event of writes) {
    if (event.event !== 'acknowledged') continue;
    for (const [subject, version] of event.written) {
      const versions = acknowledged.get(subject) ?? new Set<number>();
      acknowledged.set(subject, versions.add(version));
    }
  }
  const began = performance.now();
  for (;;) {
    const truth = new Map<number, Committed>();
    for (const it of await committed(cluster, subjects)) {
      if (it.version > (truth.get(it.subject)?.version ?? 0)) truth.set(it.subject, it);
    }
    const due = [...truth.values()].filter(({ subject, version }) =>
      acknowledged.get(subject)?.has(version),
    );
    const looks = await Promise.all(cluster.nodes.map((node) => node.look()));
    const differing = looks.flatMap((look, node) => {
      if (!look) return [`node ${node} does not answer`];
      return due.flatMap(({ subject, version, gone }) => {
        if (look[subject] === (gone ? 0 : version)) return [];
        const is = gone ? `gone (${version})` : `at ${version}`;
        return [
          `node ${node} shows ${subjects[subject]?.name} at ${look[subject]}, but it is ${is}`,
        ];
      });
    });
    const settledMs = performance.now() - began;
    if (differing.length === 0) return { settledMs, outcomes };
    if (settledMs > SETTLE_MS) {
      failures.push(...differing.slice(0, 10));
      return { settledMs, outcomes };
    }
    await sleep(50);
  }
}

async function committed(
  { psql }: Pick<Cluster, 'psql'>,
  subjects: readonly Subject[],
): Promise<Committed[]> {
  const { rows } = await psql.query<{
    entity: string;
    id: string;
    version: string;
    gone: boolean;
    stamp: string;
    name: string | null;
    owner: string;
    number: string;
  }>('SELECT * FROM campaign_audit');
  const indexOf = new Map(subjects.map(({ id }, index) => [id, index]));
  return rows.flatMap(({ entity, id, version, gone, stamp, name, owner, number }): Committed[] => {
    const subject = indexOf.get(id);
    const kind = subject === undefined ? undefined : kindOf(subjects[subject] as Subject);
    if (subject !== undefined && kind !== 'c')
      return [{ subject, version: Number(version), gone, stamp: Number(stamp), name }];
    const list = entity === 'orders' ? indexOf.get(owner) : undefined;
    return list === undefined
      ? []
      : [{ subject: list, version: Number(number), gone, stamp: Number(stamp), name: null }];
  });
}

/** What was written and read of the violation's subject, and what went wrong, just before it and in it. */
function excerpt(
  { rule, subject, what, from, to }: Violation,
  { subjects, reads, writes, happened }: History,
): string {
  const ms = (time: number): string => `${((time - from) / 1000).toFixed(2)} ms`.padStart(14);
  const earliest = from - EXCERPT.beforeMs * 1000;
  const told: [number, string][] = [];
  for (const fault of happened) {
    if (fault.from < to && fault.to > earliest - 2_000_000)
      told.push([fault.from, `fault  ${fault.kind} ${fault.what}, over at ${ms(fault.to).trim()}`]);
  }
  const mine = new Set<number>();
  for (const event of writes) {
    if (event.event === 'acknowledged' && event.written.some(([index]) => index === subject))
      mine.add(event.stamp);
  }
  for (const event of writes) {
    if (mine.has(event.stamp) && event.at > earliest && event.at <= to)
      told.push([event.at, `write  ${JSON.stringify({ ...event, at: undefined })}`]);
  }
  const seen: [number, string][] = [];
  for (const chunk of reads) {
    for (let at = 0; at < chunk.length; at += READ_WIDTH) {
      const [index, version, stamp, begin, end] = chunk.subarray(
        at,
        at + READ_WIDTH,
      ) as unknown as [...[number, number, number, number, number]];
      if (index === subject && end <= to && end > earliest)
        seen.push([begin, `read   version ${version} of write ${stamp}, until ${ms(end).trim()}`]);
    }
  }
  told.push(...seen.sort(([one], [other]) => other - one).slice(0, EXCERPT.reads));
  told.sort(([one], [other]) => one - other);
  return [
    `${rule}: ${subjects[subject]?.name} ${what}`,
    ...told.map(([time, text]) => `${ms(time)}  ${text}`),
  ].join('\n');
}
