/**
 * Rounds: fresh rows, clients on every node, faults by a seeded schedule, writes by hand on rows of their own; then quiet, a
 * look at whether every node shows what the database has, and the checker's judgement. Fresh rows make each round's history
 * complete in itself, so that a campaign of any length needs the memory of one round.
 */
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Committed, type History, judge, type Verdict, type Violation } from './checker.js';
import type { Cluster, Happened } from './cluster.js';
import { type Fault, schedule, type Weather } from './faults.js';
import { type Breakage, type Line, micros, microsUp, type Plan, writesOf } from './history.js';
import { Random } from './random.js';

export interface Round {
  readonly seed: number;
  readonly degradedWrites: 'allow' | 'reject';
  readonly weather: Weather;
  /** Instead of the schedule that the seed gives. */
  readonly faults?: readonly Fault[];
  readonly breakage?: Breakage;
  /** Clients of each node. */
  readonly readers?: number;
  readonly writers?: number;
  /** Milliseconds that a reader, and a writer, rests between two steps, at most. */
  readonly readRestMs?: number;
  readonly writeRestMs?: number;
  /** Milliseconds within which every node must show what the database has, after the last fault. */
  readonly settleMs: number;
}

export interface Result extends Verdict {
  readonly seed: number;
  readonly happened: readonly Happened[];
  /** Milliseconds until all nodes showed the database's state; Infinity when they did not within the bound. */
  readonly settledMs: number;
  /** What still differed at the bound. */
  readonly unsettled: readonly string[];
  /** The history around each of the first violations, ready to be printed. */
  readonly slices: readonly string[];
}

const COUNTS = { o: 10, h: 3, u: 4, s: 4 } as const;
const SHOPPERS = 8;
/** How long whoever writes by hand rests, in milliseconds. */
const HAND_REST_MS = [40, 200] as const;
/** How many reads a printed slice shows. */
const SHOWN_READS = 16;
const MOST_SLICES = 3;

export async function runRound(cluster: Cluster, round: Round): Promise<Result> {
  const random = new Random(round.seed);
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-history-'));
  try {
    const rows = await freshRows(cluster, random);
    const files: string[] = [];
    const plans = cluster.nodes.map((node, index): Plan => {
      const file = join(folder, `${index}.jsonl`);
      files.push(file);
      node.tell({ kind: 'break', breakage: round.breakage ?? null });
      return {
        ...rows,
        file,
        seed: random.between(1, 2 ** 31),
        degradedWrites: round.degradedWrites,
        readers: round.readers ?? 12,
        writers: round.writers ?? 3,
        readRestMs: round.readRestMs ?? 0,
        writeRestMs: round.writeRestMs ?? 20,
        placements: Math.floor(24 / cluster.nodes.length),
      };
    });
    cluster.happened.length = 0;
    const byHand: Line[] = [];
    cluster.nodes.forEach((node, index) => {
      node.onDeath = () => repeatPlacements(cluster, files[index] as string, index);
      node.begin(plans[index] as Plan);
    });
    await weather(cluster, round, rows.rows, byHand, random.fork('hands'));
    const { settledMs, unsettled } = await settle(cluster, plans, round.settleMs);

    const lines = [
      ...files
        .flatMap((file) => [writesOf(file), file])
        .filter(existsSync)
        .flatMap(linesOf),
      ...rows.known,
      ...byHand,
    ];
    const history: History = { lines, ...(await committed(cluster, rows)), ...spans(cluster.happened) };
    const verdict = judge(history);
    const slices = [...verdict.violations, ...(process.env.CAMPAIGN_LOG ? verdict.behind : [])]
      .slice(0, MOST_SLICES)
      .map((it) => slice(it, lines, cluster.happened));
    return { ...verdict, seed: round.seed, happened: [...cluster.happened], settledMs, unsettled, slices };
  } finally {
    for (const node of cluster.nodes) node.tell({ kind: 'break', breakage: null });
    rmSync(folder, { recursive: true, force: true });
  }
}

type Rows = Pick<Plan, 'rows' | 'owner' | 'names' | 'shoppers'> & { readonly known: Line[] };

const ITEMS = JSON.stringify([{ sku: 'A', name: 'a', quantity: 1, unitPrice: 1 }]);

/** New rows, made by hand, and the lines that say so. */
async function freshRows({ database }: Cluster, random: Random): Promise<Rows> {
  const tag = random.between(0, 2 ** 31).toString(36) + Date.now().toString(36);
  const [ids, shoppers]: Record<string, string>[] = [{}, {}];
  for (const [kind, count] of Object.entries(COUNTS)) {
    for (let index = 0; index < count; index++) (ids as Record<string, string>)[kind + index] = randomUUID();
  }
  for (let index = 0; index < SHOPPERS; index++) (shoppers as Record<string, string>)[`c${index}`] = randomUUID();
  const rows = ids as Record<string, string>;
  const owner = randomUUID();
  const names = Array.from({ length: COUNTS.u + 3 }, (_, index) => `n${index}-${tag}`);
  const known: Line[] = [];
  const user = (id: string, name: string, stamp: number) =>
    database.query('INSERT INTO users (id, username, email) VALUES ($1, $2, $3)', [id, name, `${stamp}@${name}.test`]);

  await database.query('TRUNCATE campaign_audit');
  await user(owner, `owner-${tag}`, 0);
  for (const [key, id] of Object.entries(shoppers as Record<string, string>)) await user(id, `${key}-${tag}`, 0);
  let stamp = 0;
  for (const [key, id] of Object.entries(rows)) {
    stamp++;
    if (key.startsWith('u')) await user(id, names[Number(key.slice(1))] as string, stamp);
    else if (key.startsWith('s')) {
      await database.query(
        `INSERT INTO sessions (id, user_id, token_hash, user_agent, last_seen_at, expires_at)
         VALUES ($1, $2, encode(sha256(convert_to($1::uuid::text, 'UTF8')), 'hex'), $3, now(), now() + interval '1 hour')`,
        [id, owner, String(stamp)],
      );
    } else {
      await database.query(
        `INSERT INTO orders (id, user_id, status, currency, items, total, note) VALUES ($1, $2, 'placed', 'EUR', $4, 1, $3)`,
        [id, owner, String(stamp), ITEMS],
      );
    }
    known.push(['b', stamp, 0]);
  }
  const { rows: made } = await database.query<{ id: string; version: string; stamp: string }>(
    'SELECT id, version, stamp FROM campaign_audit WHERE id = ANY ($1)',
    [Object.values(rows)],
  );
  const keyOf = new Map(Object.entries(rows).map(([key, id]) => [id, key]));
  for (const it of made) known.push(['w', Number(it.stamp), 0, '', keyOf.get(it.id) as string, Number(it.version)]);
  return { rows, owner, names, shoppers: shoppers as Record<string, string>, known };
}

/** The round itself, until its time is up and its last fault is over. */
async function weather(
  cluster: Cluster,
  { weather, faults, seed }: Round,
  rows: Readonly<Record<string, string>>,
  byHand: Line[],
  random: Random,
): Promise<void> {
  const began = performance.now();
  const planned = faults ?? schedule(weather, new Random(seed).fork('faults'));
  const inflicted = planned.map(async (fault) => {
    await sleep(fault.at);
    await cluster.inflict(fault);
  });
  const hands = Object.keys(rows).filter((key) => key.startsWith('h'));
  for (let stamp = 1_000_000; performance.now() - began < weather.ms; await sleep(random.between(...HAND_REST_MS))) {
    const key = random.pick(hands);
    byHand.push(['b', ++stamp, micros()]);
    const { rows: written } = await cluster.database.query<{ version: string }>(
      'UPDATE orders SET note = $2 WHERE id = $1 RETURNING version',
      [rows[key], String(stamp)],
    );
    byHand.push(['w', stamp, microsUp(), 'h', key, Number(written[0]?.version)]);
  }
  await Promise.all(inflicted);
  await cluster.heal();
}

/** Whoever waits for a placement's answer from a node that died asks another node, with the same key. */
function repeatPlacements(cluster: Cluster, file: string, dead: number): void {
  if (!existsSync(writesOf(file))) return;
  const open = new Map<number, { owner: string; key: string }>();
  for (const line of linesOf(writesOf(file))) {
    if (line[0] === 'b' && line[3] !== undefined) open.set(line[1], { owner: line[3], key: line[4] as string });
    else if (line[0] === 'p') open.delete(line[1]);
  }
  const other = cluster.nodes[(dead + 1) % cluster.nodes.length];
  for (const [stamp, { owner, key }] of open) other?.tell({ kind: 'repeat', stamp, owner, key });
}

/** Stops the load, then asks every node for every row until all show what the database has. */
async function settle(
  cluster: Cluster,
  plans: readonly Plan[],
  boundMs: number,
): Promise<Pick<Result, 'settledMs' | 'unsettled'>> {
  const began = performance.now();
  await Promise.all(cluster.nodes.map((node) => node.end()));
  const { rows } = plans[0] as Plan;
  for (;;) {
    const { rows: found } = await cluster.database.query<{ id: string; version: string }>(
      `SELECT id, version FROM orders WHERE id = ANY ($1) UNION ALL SELECT id, version FROM users WHERE id = ANY ($1)
       UNION ALL SELECT id, version FROM sessions WHERE id = ANY ($1)`,
      [Object.values(rows)],
    );
    const truth = new Map(found.map(({ id, version }) => [id, Number(version)]));
    const looks = await Promise.all(cluster.nodes.map((node) => node.look()));
    const unsettled = looks.flatMap((look, index) => {
      if (!look) return [`node ${index} does not answer`];
      const differing = Object.entries(rows).filter(([key, id]) => look[key] !== (truth.get(id) ?? 0));
      return differing.map(([key, id]) => `node ${index} shows ${key} at ${look[key]}, it is at ${truth.get(id) ?? 0}`);
    });
    const ms = performance.now() - began;
    if (unsettled.length === 0) return { settledMs: ms, unsettled };
    if (ms > boundMs) return { settledMs: Infinity, unsettled };
    await sleep(50);
  }
}

function linesOf(file: string): Line[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((text) => {
      try {
        return text ? [JSON.parse(text) as Line] : [];
      } catch {
        return []; // The last words of a node that died while it wrote.
      }
    });
}

async function committed({ database }: Cluster, rows: Rows): Promise<Pick<History, 'committed' | 'placed'>> {
  const { rows: audit } = await database.query<{
    entity: string;
    id: string;
    version: string;
    gone: boolean;
    stamp: string;
    aliases: (string | null)[];
    owner: string;
  }>('SELECT * FROM campaign_audit');
  const keyOf = new Map(Object.entries(rows.rows).map(([key, id]) => [id, key]));
  const shopperOf = new Map(Object.entries(rows.shoppers).map(([key, id]) => [id, key]));
  const versions: Committed[] = [];
  const placed = new Map<number, string>();
  for (const { entity, id, version, gone, stamp, aliases, owner } of audit) {
    const row = keyOf.get(id);
    const shopper = shopperOf.get(owner);
    if (row) {
      const names = aliases.filter((name): name is string => name !== null);
      versions.push({ row, version: Number(version), gone, stamp: Number(stamp), aliases: names });
    } else if (entity === 'orders' && shopper) placed.set(Number(stamp), shopper);
  }
  return { committed: versions, placed };
}

function spans(happened: readonly Happened[]): Pick<History, 'evictions' | 'outages'> {
  const of = (...kinds: Fault['kind'][]) => happened.filter(({ kind }) => kinds.includes(kind));
  return { evictions: of('flush', 'evict'), outages: of('outage') };
}

/** What was written and read of the violation's subject, and what went wrong, just before and in it. */
function slice(
  { rule, subject, what, from, to }: Violation,
  lines: readonly Line[],
  happened: readonly Happened[],
): string {
  const keys = subject.split(' → ');
  const ms = (time: number): string => `${((time - from) / 1000).toFixed(1)} ms`.padStart(12);
  const isWrite = ([kind]: Line): boolean => kind === 'b' || kind === 'w' || kind === 'p' || kind === 'x';
  const names = (line: Line): boolean => line.some((it) => keys.includes(it as string));
  const stamps = new Set(lines.filter((line) => isWrite(line) && names(line)).map((line) => line[1]));
  const told: [number, string][] = [];
  for (const fault of happened) {
    const near = fault.from < to && fault.to > from - 1_000_000;
    if (near) told.push([fault.from, `${fault.kind} ${fault.what}, over at ${ms(fault.to)}`]);
  }
  for (const line of lines) {
    const time = Number(line[2]);
    const near = isWrite(line) && stamps.has(line[1]) && time > from - 200_000 && time < to;
    if (near) told.push([time, JSON.stringify(line)]);
  }
  const reads = lines.filter((line) => !isWrite(line) && line[0] !== 't' && names(line) && Number(line[2]) <= to);
  reads.sort((one, other) => Number(other[2]) - Number(one[2]));
  for (const line of reads.slice(0, SHOWN_READS)) {
    const only = line[0] === 'm' ? line.slice(0, 3).concat(seenOf(line, keys)) : line;
    told.push([line[1] as number, `${JSON.stringify(only)} until ${ms(Number(line[2]))}`]);
  }
  told.sort(([one], [other]) => one - other);
  return [`${rule}: ${subject} ${what}`, ...told.map(([time, text]) => `  ${ms(time)}  ${text.slice(0, 300)}`)].join(
    '\n',
  );
}

/** The first row among these keys that a read of many saw. */
function seenOf(line: Line, keys: readonly string[]): (string | number)[] {
  const at = line.findIndex((it) => keys.includes(it as string));
  return line.slice(at, at + 3) as (string | number)[];
}

/** The sums over rounds, as lines to print. */
export function summary(results: readonly Result[]): string[] {
  const sum = (of: (result: Result) => number): number => results.reduce((total, result) => total + of(result), 0);
  const tally = (name: string): number => sum((result) => result.tally[name] ?? 0);
  const faults = new Map<string, number>();
  const excused = new Map<string, number[]>();
  for (const { happened, excused: measured } of results) {
    for (const { kind } of happened) faults.set(kind, (faults.get(kind) ?? 0) + 1);
    for (const [reason, behind] of measured) excused.set(reason, (excused.get(reason) ?? []).concat(behind));
  }
  const asked = ['hit', 'miss', 'fenced', 'bypass', 'unavailable'].map((name) => tally(`cache ${name}`));
  const hits =
    (100 * (asked[0] as number)) /
    Math.max(
      1,
      asked.reduce((total, count) => total + count, 0),
    );
  return [
    `reads ${sum((it) => it.reads)} (rows seen ${sum((it) => it.rows)}), hit ratio ${hits.toFixed(1)} %`,
    `writes acknowledged ${sum((it) => it.writes)}, failed or rolled back ${sum((it) => it.failed)}`,
    `faults ${[...faults].map(([kind, count]) => `${kind} ${count}`).join(', ') || 'none'}`,
    `violations ${sum((it) => it.violations.length)}; reads behind another read ${sum((it) => it.behind.length)}`,
    ...[...excused].map(([reason, behind]) => `stale by G2, ${reason}: ${told(behind)}`),
    `settled within ${Math.round(Math.max(...results.map((it) => it.settledMs)))} ms of the last fault`,
  ];
}

function told(behind: number[]): string {
  const sorted = [...behind].sort((one, other) => one - other);
  const at = (part: number): string => ((sorted[Math.ceil(sorted.length * part) - 1] ?? 0) / 1000).toFixed(1);
  return `${sorted.length} reads, behind by p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, at most ${at(1)} ms`;
}
