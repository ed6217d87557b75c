/**
 * Judges one round's history, after it, without a look at the code: each row is a register whose versions are what the
 * database's audit says was committed. A read that began after a write was acknowledged must not return an older version
 * (G1), and nothing may be returned that was not committed (G3). Where the promise itself ends (docs/cache-protocol.md, G2),
 * a stale read is measured and not a violation: each such exception is one line of {@link Judge.excuse}.
 */
import type { Flags, Line } from './history.js';

/** What the database's trigger saw committed: one version of one row. */
export interface Committed {
  readonly row: string;
  readonly version: number;
  readonly gone: boolean;
  readonly stamp: number;
  /** The names under which the row was found then. */
  readonly aliases: readonly string[];
}

export interface Span {
  readonly from: number;
  readonly to: number;
}

export interface History {
  readonly lines: readonly Line[];
  readonly committed: readonly Committed[];
  /** Stamp → owner of each placement that was committed. */
  readonly placed: ReadonlyMap<number, string>;
  /** When entries may have vanished from a Redis that nobody lost sight of. */
  readonly evictions: readonly Span[];
  /** When no node at all could reach Redis. */
  readonly outages: readonly Span[];
}

export type Rule =
  | 'G1 stale read'
  | 'G3 never committed'
  | 'acknowledged and lost'
  | 'wrong row for an alias'
  | 'order missing'
  | 'behind another read';

export interface Violation {
  readonly rule: Rule;
  readonly subject: string;
  readonly what: string;
  readonly from: number;
  readonly to: number;
}

export interface Verdict {
  readonly reads: number;
  /** Rows seen: a read of many sees several. */
  readonly rows: number;
  readonly writes: number;
  readonly failed: number;
  readonly violations: readonly Violation[];
  /** Microseconds that each excused stale read was behind, by why it is excused. */
  readonly excused: ReadonlyMap<string, readonly number[]>;
  /** Reads older than what another read had already returned before they began: not promised, but told. */
  readonly behind: readonly Violation[];
  readonly tally: Readonly<Record<string, number>>;
}

type LineOf<K> = Extract<Line, readonly [K, ...unknown[]]>;

interface Write {
  readonly stamp: number;
  readonly begin: number;
  readonly ack: number;
  readonly flags: Flags;
  readonly version: number;
}

/** All that is known of one row. */
class Register {
  readonly versions = new Map<number, Committed>();
  /** By the time of acknowledgement, with the newest version acknowledged so far. */
  readonly writes: Write[] = [];
  private newest: number[] = [];
  /** Deletions, the newest first, with the time before which nobody can have seen them. */
  private deletions: { readonly version: number; readonly begin: number }[] = [];
  readonly seen: { begin: number[]; end: number[]; version: number[] } = { begin: [], end: [], version: [] };

  ready(): void {
    this.writes.sort((one, other) => one.ack - other.ack);
    let newest = 0;
    this.newest = this.writes.map(({ version }) => (newest = Math.max(newest, version)));
    const begins = new Map(this.writes.map(({ version, begin }) => [version, begin]));
    this.deletions = [...this.versions.values()]
      .filter(({ gone }) => gone)
      .map(({ version }) => ({ version, begin: begins.get(version) ?? 0 }))
      .sort((one, other) => other.version - one.version);
  }

  /** The newest deletion that a read which ended then could have seen; 0 when there was none. */
  deletionBefore(end: number): number {
    return this.deletions.find(({ begin }) => begin < end)?.version ?? 0;
  }

  /** The newest version whose write was acknowledged before this time. */
  floor(time: number): number {
    let [low, high] = [0, this.writes.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.writes[middle] as Write).ack < time) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : (this.newest[low - 1] as number);
  }

  /** Acknowledged before `time` and newer than `version`. */
  missed(version: number, time: number): Write[] {
    return this.writes.filter((write) => write.ack < time && write.version > version);
  }

  /** Reads that saw less than a read which had ended before they began. Not promised for what is written by hand. */
  behind(subject: string): Violation[] {
    if (this.writes.some(({ flags }) => flags.includes('h'))) return [];
    const { begin, end, version } = this.seen;
    const byBegin = begin.map((_, index) => index).sort((a, b) => (begin[a] as number) - (begin[b] as number));
    const byEnd = end.map((_, index) => index).sort((a, b) => (end[a] as number) - (end[b] as number));
    const found: Violation[] = [];
    let [ended, known] = [0, 0];
    for (const index of byBegin) {
      const [from, to, seen] = [begin[index] as number, end[index] as number, version[index] as number];
      for (let next = byEnd[ended]; next !== undefined && (end[next] as number) < from; next = byEnd[++ended]) {
        known = Math.max(known, version[next] as number);
      }
      const what = `saw version ${seen} after another had seen ${known}`;
      if (seen < known) found.push({ rule: 'behind another read', subject, what, from, to });
    }
    return found;
  }
}

class Judge {
  private readonly rows = new Map<string, Register>();
  private readonly begins = new Map<number, number>();
  private readonly placements = new Map<string, Write[]>();
  private readonly byAlias = new Map<string, Committed[]>();
  private readonly violations: Violation[] = [];
  private readonly excused = new Map<string, number[]>();
  private readonly tally: Record<string, number> = {};
  private counts = { reads: 0, rows: 0, writes: 0, failed: 0 };

  constructor(private readonly history: History) {}

  judge(): Verdict {
    this.learn();
    for (const line of this.history.lines) this.look(line);
    const behind = [...this.rows].flatMap(([key, row]) => row.behind(key));
    const { violations, excused, tally } = this;
    return { ...this.counts, violations, excused, behind, tally };
  }

  private learn(): void {
    const { lines, committed } = this.history;
    for (const version of committed) {
      this.row(version.row).versions.set(version.version, version);
      for (const alias of version.aliases) push(this.byAlias, alias, version);
    }
    for (const line of lines) if (line[0] === 'b') this.begins.set(line[1], line[2]);
    for (const line of lines) {
      if (line[0] === 'x') this.counts.failed++;
      else if (line[0] === 'w') this.learnWrite(line);
      else if (line[0] === 'p') {
        const [, stamp, ack, flags, owner] = line;
        this.counts.writes++;
        push(this.placements, owner, { stamp, begin: this.begins.get(stamp) ?? ack, ack, flags, version: 1 });
        if (this.history.placed.get(stamp) !== owner) this.lost(`placement ${stamp}`, ack);
      } else if (line[0] === 't') {
        for (const [name, count] of Object.entries(line[1])) this.tally[name] = (this.tally[name] ?? 0) + count;
      }
    }
    for (const row of this.rows.values()) row.ready();
  }

  private learnWrite([, stamp, ack, flags, ...written]: LineOf<'w'>): void {
    this.counts.writes++;
    for (let index = 0; index < written.length; index += 2) {
      const [row, version] = [written[index] as string, written[index + 1] as number];
      this.row(row).writes.push({ stamp, begin: this.begins.get(stamp) ?? ack, ack, flags, version });
      const committed = this.row(row).versions.get(version);
      if (!committed || (!committed.gone && committed.stamp !== stamp)) this.lost(`${row} version ${version}`, ack);
    }
  }

  private lost(subject: string, ack: number): void {
    const what = 'acknowledged, but the database does not have it';
    this.violations.push({ rule: 'acknowledged and lost', subject, what, from: ack, to: ack });
  }

  private look(line: Line): void {
    switch (line[0]) {
      case 'r':
        this.counts.reads++;
        return this.observe(line[3], line[4], line[5], line[1], line[2]);
      case 'm':
        this.counts.reads++;
        for (let index = 3; index < line.length; index += 3) {
          const [row, version, stamp] = line.slice(index, index + 3) as [string, number, number];
          this.observe(row, version, stamp, line[1], line[2]);
        }
        return;
      case 'a':
        this.counts.reads++;
        return this.observeAlias(line);
      case 'c':
        this.counts.reads++;
        return this.observeCollection(line);
    }
  }

  private observe(key: string, version: number, stamp: number, begin: number, end: number): void {
    this.counts.rows++;
    const row = this.row(key);
    // Nothing there: as new as the last deletion that this read could have seen.
    const seen = version === 0 ? row.deletionBefore(end) : version;
    const committed = row.versions.get(version);
    if (version !== 0 && (!committed || committed.gone || committed.stamp !== stamp)) {
      const what = `version ${version} with stamp ${stamp}; committed is ${JSON.stringify(committed ?? null)}`;
      this.violations.push({ rule: 'G3 never committed', subject: key, what, from: begin, to: end });
    }
    row.seen.begin.push(begin);
    row.seen.end.push(end);
    row.seen.version.push(seen);
    if (seen >= row.floor(begin)) return;
    const what = `returned version ${version === 0 ? `none (${seen})` : version}`;
    this.missed('G1 stale read', key, what, row.missed(seen, begin), begin, end);
  }

  private observeAlias([, begin, end, alias, key, version, stamp]: LineOf<'a'>): void {
    const name = alias.toLowerCase();
    if (key !== '') {
      const committed = this.rows.get(key)?.versions.get(version);
      if (committed && !committed.aliases.includes(name)) {
        const what = `answered with version ${version}, which is ${committed.aliases.join(' and ')}`;
        this.violations.push({
          rule: 'wrong row for an alias',
          subject: `${name} → ${key}`,
          what,
          from: begin,
          to: end,
        });
      }
      return this.observe(key, version, stamp, begin, end);
    }
    for (const had of this.byAlias.get(name) ?? []) {
      const row = this.row(had.row);
      const write = row.writes.find(({ version }) => version === had.version);
      if (!write || write.ack >= begin) continue;
      let next = row.versions.get(had.version + 1);
      while (next?.aliases.includes(name)) next = row.versions.get(next.version + 1);
      if (next && (this.begins.get(next.stamp) ?? 0) <= end) continue;
      this.missed('G1 stale read', `${name} → ${had.row}`, 'no row for the alias', [write], begin, end);
    }
  }

  private observeCollection([, begin, end, owner, stamps]: LineOf<'c'>): void {
    this.counts.rows += stamps.length;
    const held = new Set(stamps);
    for (const stamp of held) {
      if (this.history.placed.get(stamp) === owner) continue;
      const what = `order ${stamp} was never placed by ${owner}`;
      this.violations.push({ rule: 'G3 never committed', subject: owner, what, from: begin, to: end });
    }
    const missing = (this.placements.get(owner) ?? []).filter(({ stamp, ack }) => ack < begin && !held.has(stamp));
    if (missing.length > 0) this.missed('order missing', owner, `listed ${held.size}`, missing, begin, end);
  }

  /** A read did not show these acknowledged writes: a violation, unless the promise excepts every one of them. */
  private missed(rule: Rule, subject: string, what: string, writes: Write[], begin: number, end: number): void {
    const reasons = writes.map((write) => this.excuse(write, end));
    const broken = writes.find((_, index) => reasons[index] === undefined);
    if (broken) {
      const since = `${Math.round((begin - broken.ack) / 1000)} ms after version ${broken.version} (write ${broken.stamp}${broken.flags}) was acknowledged`;
      this.violations.push({ rule, subject, what: `${what}, ${since}`, from: Math.min(broken.begin, begin), to: end });
    } else push(this.excused, reasons[0] as string, begin - Math.min(...writes.map(({ ack }) => ack)));
  }

  /** Why a read that ended at `end` need not show this write; undefined when it must. */
  private excuse({ begin, ack, flags }: Write, end: number): string | undefined {
    const { evictions, outages } = this.history;
    if (flags.includes('h')) return 'written by hand';
    // Committed without fences, which is for a writer alone that cannot reach Redis: when nobody could, G1 holds.
    if (flags.includes('f') && !outages.some(({ from, to }) => from <= begin && ack <= to)) return 'writer cut off';
    // Its publication failed, and the fence that stood in for it may have been evicted: the model's residual.
    if (flags.includes('p') && evictions.some(({ from, to }) => from <= end && to >= begin)) return 'fence evicted';
    return undefined;
  }

  private row(key: string): Register {
    let row = this.rows.get(key);
    if (!row) this.rows.set(key, (row = new Register()));
    return row;
  }
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

export const judge = (history: History): Verdict => new Judge(history).judge();
