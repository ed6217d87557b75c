/**
 * Judges one round's history, after it, without a look at the code: each subject is a register whose versions are what the
 * database's audit says was committed. Three rules: a read that began after a write was acknowledged does not return an older
 * version (G1); nothing is returned that was not committed (G3); and no read goes back behind what another read had returned
 * before it began. Where the promise itself ends (docs/cache-protocol.md, G2) a read is not a violation but measured against
 * a bound; each such exception is one line of {@link Judge.excuse} or {@link Judge.excuseBehind}.
 */
import {
  type Happened,
  type How,
  kindOf,
  READ_WIDTH,
  type Subject,
  type WriteEvent,
} from './history.js';

/** What the database's trigger saw committed: one version of one subject. */
export interface Committed {
  readonly subject: number;
  readonly version: number;
  readonly gone: boolean;
  readonly stamp: number;
  /** The name that a user had then. */
  readonly name: string | null;
}

export interface History {
  readonly subjects: readonly Subject[];
  readonly reads: readonly Float64Array[];
  readonly writes: readonly WriteEvent[];
  readonly committed: readonly Committed[];
  readonly happened: readonly Happened[];
  /** Where they are allowed, nothing is promised of what reads see of each other. */
  readonly degradedWrites: 'allow' | 'reject';
  /** Milliseconds that a fence stands. */
  readonly fenceMs: number;
  /** Milliseconds after which even a read that is excused from G1 is a violation. */
  readonly boundMs: number;
}

/** Faults by which entries, fences among them, may vanish from a Redis that nobody lost sight of. */
export const EVICTIONS: readonly string[] = ['FLUSHALL', 'evictions'];
/** Those, and faults by which another life of Redis begins. */
const LOSSES: readonly string[] = [
  ...EVICTIONS,
  ...['Redis back empty', 'Redis back with an old dataset'],
  ...['failover by hand', 'master killed', 'master hangs'],
];
/** No node at all can reach Redis. */
const OUTAGES: readonly string[] = ['outage'];

export interface Violation {
  readonly rule:
    'G1: stale' | 'G3: never committed' | 'behind another read' | 'acknowledged and lost';
  readonly subject: number;
  readonly what: string;
  readonly from: number;
  readonly to: number;
}

/** Reads that are no violation and yet not the newest: how many, and by how many milliseconds at most. */
export interface Excused {
  reads: number;
  worstMs: number;
}

export interface Verdict {
  readonly reads: number;
  readonly acknowledged: number;
  readonly failed: number;
  /** All of them in number, the first of them in full. */
  readonly violated: Readonly<Record<string, number>>;
  readonly violations: readonly Violation[];
  readonly excused: Readonly<Record<string, Excused>>;
}

/** A version that only grows, by time: the greatest that was known at a moment. */
class Growth {
  private readonly times: number[] = [];
  private readonly versions: number[] = [];

  constructor(events: Iterable<readonly [version: number, at: number]>) {
    let greatest = 0;
    for (const [version, at] of [...events].sort(([, one], [, other]) => one - other)) {
      if (version <= greatest) continue;
      this.times.push(at);
      this.versions.push((greatest = version));
    }
  }

  /** Strictly before `time`. */
  before(time: number): number {
    let [low, high] = [0, this.times.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.times[middle] as number) < time) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : (this.versions[low - 1] as number);
  }
}

interface Write {
  readonly version: number;
  readonly begin: number;
  /** Infinity when nobody was told that it succeeded. */
  readonly ack: number;
  readonly how: How;
}

/** All that is known of one subject. */
class Register {
  readonly committed = new Map<number, Committed>();
  readonly writes = new Map<number, Write>();
  /** When each version was first returned. */
  readonly seen = new Map<number, number>();
  acknowledged = new Growth([]);
  returned = new Growth([]);
  /** Versions that are deletions, the newest first. */
  private deletions: number[] = [];

  ready(): void {
    const done = [...this.writes.values()].filter(({ ack }) => ack < Infinity);
    this.acknowledged = new Growth(done.map(({ version, ack }) => [version, ack]));
    this.deletions = [...this.committed.values()]
      .filter(({ gone }) => gone)
      .map(({ version }) => version)
      .sort((one, other) => other - one);
  }

  /** The newest deletion that a read which ended then could have seen; 0 when there was none. */
  deletionBefore(end: number): number {
    return this.deletions.find((version) => (this.writes.get(version)?.begin ?? 0) < end) ?? 0;
  }

  /** Writes of versions greater than one and not greater than another. */
  between(version: number, newest: number): Write[] {
    return [...this.writes.values()].filter((it) => it.version > version && it.version <= newest);
  }
}

/** How many violations are told in full. */
const MOST_TOLD = 5;

class Judge {
  private readonly registers: Register[];
  private readonly users: readonly number[];
  private readonly evictions: readonly Happened[];
  private readonly losses: readonly Happened[];
  private readonly outages: readonly Happened[];
  private readonly violated: Record<string, number> = {};
  private readonly violations: Violation[] = [];
  private readonly excused: Record<string, Excused> = {};
  private counts = { reads: 0, acknowledged: 0, failed: 0 };

  constructor(private readonly history: History) {
    this.registers = history.subjects.map(() => new Register());
    this.users = [...history.subjects.keys()].filter(
      (index) => kindOf(history.subjects[index] as Subject) === 'u',
    );
    const of = (kinds: readonly string[]) =>
      history.happened.filter(({ kind }) => kinds.includes(kind));
    [this.evictions, this.losses, this.outages] = [of(EVICTIONS), of(LOSSES), of(OUTAGES)];
  }

  judge(): Verdict {
    this.learnWrites();
    this.eachRead((register, version, _, __, end) => {
      const first = register.seen.get(version);
      if (version > 0 && (first === undefined || end < first)) register.seen.set(version, end);
    });
    for (const register of this.registers) register.returned = new Growth(register.seen);
    this.eachRead((...read) => this.look(...read));
    const { violated, violations, excused } = this;
    return { ...this.counts, violated, violations, excused };
  }

  private learnWrites(): void {
    const { committed, writes } = this.history;
    const begins = new Map<number, number>();
    for (const event of writes) if (event.event === 'begun') begins.set(event.stamp, event.at);
    for (const it of committed) {
      const register = this.register(it.subject);
      register.committed.set(it.version, it);
      // Unless somebody tells otherwise below: nobody knows when it began (its node died before it told), nor that it succeeded.
      const begin = begins.get(it.stamp) ?? 0;
      register.writes.set(it.version, { version: it.version, begin, ack: Infinity, how: 'fenced' });
    }
    for (const event of writes) {
      if (event.event === 'failed') this.counts.failed++;
      if (event.event !== 'acknowledged') continue;
      this.counts.acknowledged++;
      const { stamp, at, how } = event;
      for (const [subject, version] of event.written) {
        const register = this.register(subject);
        const found = register.committed.get(version);
        if (!found || (!found.gone && found.stamp !== stamp)) {
          const what = `version ${version} by write ${stamp}, but the database does not have it`;
          this.violate({ rule: 'acknowledged and lost', subject, what, from: at, to: at });
        }
        register.writes.set(version, { version, begin: begins.get(stamp) ?? 0, ack: at, how });
      }
    }
    for (const register of this.registers) register.ready();
  }

  private eachRead(
    visit: (
      register: Register,
      version: number,
      stamp: number,
      begin: number,
      end: number,
      subject: number,
    ) => void,
  ): void {
    for (const reads of this.history.reads) {
      for (let at = 0; at < reads.length; at += READ_WIDTH) {
        const [subject, version] = [reads[at] as number, reads[at + 1] as number];
        const [stamp, begin, end] = [
          reads[at + 2] as number,
          reads[at + 3] as number,
          reads[at + 4] as number,
        ];
        visit(this.register(subject), version, stamp, begin, end, subject);
      }
    }
  }

  private look(
    register: Register,
    version: number,
    stamp: number,
    begin: number,
    end: number,
    subject: number,
  ): void {
    this.counts.reads++;
    const kind = kindOf(this.history.subjects[subject] as Subject);
    if (kind === 'n') return this.lookForName(subject, begin, end);
    const committed = register.committed.get(version);
    if (version !== 0 && (!committed || committed.gone || committed.stamp !== stamp)) {
      const what = `version ${version} of write ${stamp}; committed is ${JSON.stringify(committed ?? null)}`;
      this.violate({ rule: 'G3: never committed', subject, what, from: begin, to: end });
      return;
    }
    // Nothing there: as new as the last deletion that this read could have seen.
    const seen = version === 0 ? register.deletionBefore(end) : version;
    const due = register.acknowledged.before(begin);
    if (seen < due) return this.stale(register, seen, due, begin, end, subject);
    const known = this.history.degradedWrites === 'reject' ? register.returned.before(begin) : 0;
    if (seen < known) this.behind(register, seen, known, begin, end, subject);
  }

  /** No user has this name: wrong if one had taken it before the read began and had not begun to give it up when it ended. */
  private lookForName(subject: number, begin: number, end: number): void {
    const name = this.history.subjects[subject]?.id;
    for (const user of this.users) {
      const register = this.register(user);
      const due = register.acknowledged.before(begin);
      if (register.committed.get(due)?.name !== name || due === 0) continue;
      const later = [...register.writes.values()].filter(
        (write) => write.version > due && write.begin <= end,
      );
      if (later.some(({ version }) => register.committed.get(version)?.name !== name)) continue;
      this.stale(register, due - 1, due, begin, end, user, `no user is ${name}`);
    }
  }

  private stale(
    register: Register,
    seen: number,
    due: number,
    begin: number,
    end: number,
    subject: number,
    what = `version ${seen}`,
  ): void {
    const missed = register.between(seen, due).filter(({ ack }) => ack < begin);
    const behindMs = (begin - Math.min(...missed.map(({ ack }) => ack))) / 1000;
    const reasons = missed.map((write) => this.excuse(write, end));
    const unexcused = missed.filter((_, index) => reasons[index] === undefined);
    if (unexcused.length === 0 && behindMs <= this.history.boundMs)
      return this.measure(reasons[0] as string, behindMs);
    const worst = unexcused[0] ?? (missed[0] as Write);
    const told = `${what}, begun ${behindMs.toFixed(1)} ms after version ${worst.version} (${worst.how}) was acknowledged`;
    const bound = unexcused.length === 0 ? `, over the bound of ${this.history.boundMs} ms` : '';
    this.violate({
      rule: 'G1: stale',
      subject,
      what: told + bound,
      from: Math.min(worst.begin, begin),
      to: end,
    });
  }

  private behind(
    register: Register,
    seen: number,
    known: number,
    begin: number,
    end: number,
    subject: number,
  ): void {
    const unexcused = register
      .between(seen, known)
      .filter((write) => !this.excuseBehind(write, end));
    const returned = register.seen.get(known) as number;
    if (unexcused.length === 0)
      return this.measure('behind another read', (begin - returned) / 1000);
    const what = `version ${seen}, begun ${((begin - returned) / 1000).toFixed(1)} ms after another read had returned ${known}`;
    this.violate({ rule: 'behind another read', subject, what, from: begin, to: end });
  }

  /** Why a read that ended at `end` need not show this acknowledged write; undefined when it must. */
  private excuse({ begin, ack, how }: Write, end: number): string | undefined {
    if (how === 'by hand') return 'written by hand';
    // Committed without fences, which is for a writer alone that cannot reach Redis: when nobody could, G1 holds.
    if (how === 'unfenced' && !this.outages.some(({ from, to }) => from <= begin && ack <= to))
      return 'writer cut off';
    // Its publication failed, and the fence that stood in for it may have been evicted: the model's residual.
    if (how === 'unpublished' && overlaps(this.evictions, begin, end))
      return 'fence evicted and publication lost';
    return undefined;
  }

  /** Whether reads may disagree about this write: it is not acknowledged, so nobody was promised that all show it. */
  private excuseBehind({ begin }: Write, end: number): boolean {
    return end - begin > this.history.fenceMs * 1000 || overlaps(this.losses, begin, end);
  }

  private measure(reason: string, behindMs: number): void {
    const sum = (this.excused[reason] ??= { reads: 0, worstMs: 0 });
    sum.reads++;
    sum.worstMs = Math.max(sum.worstMs, behindMs);
  }

  private violate(violation: Violation): void {
    this.violated[violation.rule] = (this.violated[violation.rule] ?? 0) + 1;
    if (this.violations.length < MOST_TOLD) this.violations.push(violation);
  }

  private register(subject: number): Register {
    return this.registers[subject] as Register;
  }
}

const overlaps = (spans: readonly Happened[], from: number, to: number): boolean =>
  spans.some((span) => span.from <= to && span.to >= from);

export const judge = (history: History): Verdict => new Judge(history).judge();
