/**
 * Checks one round's history after the round. Each subject is a register; its versions are those
 * that the audit lists as committed. The rules are {@link Rule}. Where a promise ends, a read is
 * measured instead: writes past the service have a bound (G2), and reads may disagree about a write
 * that is in progress and not fenced (`mayReadsDisagree`).
 */
import type { DegradedWrites } from '../../../src/platform/cache/write/invalidation.js';
import {
  type AcknowledgedEvent,
  type FaultRecord,
  type Invalidated,
  type Read,
  type Subject,
  type SubjectIndex,
  unpackReads,
  type WriteEvent,
} from './history.js';

export type Rule =
  /** A read that began after a write was acknowledged returned an older version. */
  | 'G1: stale'
  /** A read returned what was never committed. */
  | 'G3: never committed'
  /** A read returned an older version than another read had returned before it began. */
  | 'older than an earlier read'
  /** The database does not have a version that was acknowledged. */
  | 'acknowledged and lost';

/** One version of one subject, as a trigger in the database recorded it. */
export interface CommittedVersion {
  readonly subject: SubjectIndex;
  readonly version: number;
  readonly isDeleted: boolean;
  readonly stamp: number;
  /** Of a user at this version. */
  readonly username: string | null;
}

export interface History {
  readonly subjects: readonly Subject[];
  /** Packed (history.ts). */
  readonly reads: readonly Float64Array[];
  readonly writes: readonly WriteEvent[];
  readonly committed: readonly CommittedVersion[];
  readonly faults: readonly FaultRecord[];
  readonly degradedWrites: DegradedWrites;
  readonly fenceMs: number;
  /** An exempt read that is later than this is a violation all the same. */
  readonly boundMs: number;
}

export interface Violation {
  readonly rule: Rule;
  readonly subject: SubjectIndex;
  readonly description: string;
  readonly from: number;
  readonly to: number;
}

/** Reads that were not the newest and yet break no promise. */
export interface Exemption {
  reads: number;
  /** How long after an acknowledgement the latest of them began. */
  worstMs: number;
}

export interface CheckResult {
  readonly reads: number;
  readonly acknowledged: number;
  readonly failed: number;
  /** Number of violations of each rule. */
  readonly violationCounts: Readonly<Partial<Record<Rule, number>>>;
  /** The first of them. */
  readonly violations: readonly Violation[];
  /** By reason. */
  readonly exemptions: Readonly<Record<string, Exemption>>;
}

/** Faults by which a cache may lose fences without becoming another cache. */
const FENCE_LOSSES: readonly string[] = [
  ...['FLUSHALL', 'evictions'],
  ...['FLUSHALL of a shard', 'shard killed', 'shard failover', 'slot moved'],
];
/** Those, and faults after which nodes may use another cache. */
const CACHE_CHANGES: readonly string[] = [
  ...FENCE_LOSSES,
  ...['Redis back empty', 'Redis back with an old dataset', 'address leads elsewhere'],
  ...['failover by command', 'master killed', 'master hangs'],
  ...['PostgreSQL killed', 'SIGSTOP'],
];

const MAX_VIOLATIONS = 5;

export const checkHistory = (history: History): CheckResult => new HistoryChecker(history).check();

interface Write {
  readonly version: number;
  readonly begin: number;
  /** Infinity when the write was not acknowledged. */
  readonly acknowledgedAt: number;
  /** Undefined when the writer died before it could say. */
  readonly invalidated: Invalidated | undefined;
}

/** The greatest version that was known at each moment. */
class VersionTimeline {
  private readonly times: number[] = [];
  private readonly versions: number[] = [];

  constructor(events: Iterable<readonly [version: number, at: number]>) {
    let greatest = 0;
    for (const [version, at] of [...events].sort((a, b) => a[1] - b[1])) {
      if (version <= greatest) continue;
      greatest = version;
      this.times.push(at);
      this.versions.push(version);
    }
  }

  /** The greatest version before `time`; 0 when there was none. */
  before(time: number): number {
    let [low, high] = [0, this.times.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.times[middle] as number) < time) low = middle + 1;
      else high = middle;
    }
    return this.versions[low - 1] ?? 0;
  }
}

/** All that is known of one subject. */
class Register {
  readonly committed = new Map<number, CommittedVersion>();
  readonly writes = new Map<number, Write>();
  /** When the first read that returned a version ended, by version. */
  readonly firstReturned = new Map<number, number>();
  acknowledged = new VersionTimeline([]);
  returned = new VersionTimeline([]);
  /** Versions that are deletions, the newest first. */
  private deletions: number[] = [];

  /** Call it when all writes are known. */
  indexWrites(): void {
    const acknowledged = [...this.writes.values()].filter(
      ({ acknowledgedAt }) => acknowledgedAt < Infinity,
    );
    this.acknowledged = new VersionTimeline(
      acknowledged.map(({ version, acknowledgedAt }) => [version, acknowledgedAt]),
    );
    this.deletions = [...this.committed.values()]
      .filter(({ isDeleted }) => isDeleted)
      .map(({ version }) => version)
      .sort((a, b) => b - a);
  }

  /** Call it when all reads are known. */
  indexReads(): void {
    this.returned = new VersionTimeline(this.firstReturned);
  }

  recordReturned(version: number, end: number): void {
    const first = this.firstReturned.get(version) ?? Infinity;
    if (version > 0 && end < first) this.firstReturned.set(version, end);
  }

  /** The newest deletion that a read which ended at `end` could have seen; 0 without one. */
  latestDeletion(end: number): number {
    return this.deletions.find((version) => (this.writes.get(version)?.begin ?? 0) < end) ?? 0;
  }

  /** The writes of versions greater than `version` and not greater than `newest`. */
  writesBetween(version: number, newest: number): Write[] {
    return [...this.writes.values()].filter(
      (write) => write.version > version && write.version <= newest,
    );
  }
}

class HistoryChecker {
  private readonly registers: readonly Register[];
  private readonly users: readonly SubjectIndex[];
  private readonly fenceLosses: readonly FaultRecord[];
  private readonly cacheChanges: readonly FaultRecord[];
  private readonly violationCounts: Partial<Record<Rule, number>> = {};
  private readonly violations: Violation[] = [];
  private readonly exemptions: Record<string, Exemption> = {};
  private reads = 0;
  private acknowledged = 0;
  private failed = 0;

  constructor(private readonly history: History) {
    const { subjects, faults } = history;
    this.registers = subjects.map(() => new Register());
    this.users = [...subjects.keys()].filter((index) => subjects[index]?.kind === 'user');
    const faultsOf = (kinds: readonly string[]): FaultRecord[] =>
      faults.filter(({ kind }) => kinds.includes(kind));
    this.fenceLosses = faultsOf(FENCE_LOSSES);
    this.cacheChanges = faultsOf(CACHE_CHANGES);
  }

  check(): CheckResult {
    this.recordWrites();
    this.recordReads();
    for (const packed of this.history.reads) {
      for (const read of unpackReads(packed)) this.checkRead(read);
    }
    const { reads, acknowledged, failed, violationCounts, violations, exemptions } = this;
    return { reads, acknowledged, failed, violationCounts, violations, exemptions };
  }

  private recordWrites(): void {
    const { committed, writes } = this.history;
    const begins = new Map<number, number>();
    const failures = new Map<number, Invalidated>();
    for (const event of writes) {
      if (event.event === 'begun') begins.set(event.stamp, event.at);
      if (event.event === 'failed') failures.set(event.stamp, event.invalidated);
    }
    this.failed = failures.size;
    for (const commit of committed) {
      const register = this.registerOf(commit.subject);
      register.committed.set(commit.version, commit);
      register.writes.set(commit.version, {
        version: commit.version,
        // A node that died may not have reported that the write began.
        begin: begins.get(commit.stamp) ?? 0,
        acknowledgedAt: Infinity,
        invalidated: failures.get(commit.stamp),
      });
    }
    for (const event of writes) {
      if (event.event === 'acknowledged') {
        this.recordAcknowledged(event, begins.get(event.stamp) ?? 0);
      }
    }
    for (const register of this.registers) register.indexWrites();
  }

  private recordAcknowledged(
    { stamp, at, invalidated, written }: AcknowledgedEvent,
    begin: number,
  ): void {
    this.acknowledged++;
    for (const [subject, version] of written) {
      const register = this.registerOf(subject);
      const commit = register.committed.get(version);
      const isCommitted = commit !== undefined && (commit.isDeleted || commit.stamp === stamp);
      if (!isCommitted) {
        const description = `version ${version} of write ${stamp}: the database does not have it`;
        this.violate({ rule: 'acknowledged and lost', subject, description, from: at, to: at });
      }
      register.writes.set(version, { version, begin, acknowledgedAt: at, invalidated });
    }
  }

  private recordReads(): void {
    for (const packed of this.history.reads) {
      for (const { subject, version, end } of unpackReads(packed)) {
        this.registerOf(subject).recordReturned(version, end);
      }
    }
    for (const register of this.registers) register.indexReads();
  }

  private checkRead(read: Read): void {
    this.reads++;
    if (this.history.subjects[read.subject]?.kind === 'username') {
      this.checkUsernameNotFound(read);
      return;
    }
    const register = this.registerOf(read.subject);
    if (!this.wasCommitted(register, read)) return;

    const { begin, end } = read;
    // A row that was not found is as new as the last deletion that the read could have seen.
    const seen = read.version === 0 ? register.latestDeletion(end) : read.version;
    const required = register.acknowledged.before(begin);
    if (seen < required) {
      this.reportStale(register, read, { seen, required, what: `version ${seen}` });
      return;
    }
    const returned = register.returned.before(begin);
    if (seen < returned) this.reportOlderThanEarlier(register, read, seen, returned);
  }

  /** Rule G3. */
  private wasCommitted(register: Register, { subject, version, stamp, begin, end }: Read): boolean {
    if (version === 0) return true;
    const commit = register.committed.get(version);
    if (commit && !commit.isDeleted && commit.stamp === stamp) return true;
    const found = commit ? JSON.stringify(commit) : 'nothing';
    const description = `version ${version} of write ${stamp}; committed is ${found}`;
    this.violate({ rule: 'G3: never committed', subject, description, from: begin, to: end });
    return false;
  }

  /**
   * No user was found under this name. That is wrong when a user had taken it before the read began
   * and had not begun to give it up when the read ended.
   */
  private checkUsernameNotFound(read: Read): void {
    const name = this.history.subjects[read.subject]?.id;
    for (const user of this.users) {
      const register = this.registerOf(user);
      const required = register.acknowledged.before(read.begin);
      const isOwner = required > 0 && register.committed.get(required)?.username === name;
      if (!isOwner || this.wasGivenUp(register, required, name, read.end)) continue;
      const what = `no user is ${name}`;
      this.reportStale(
        register,
        { ...read, subject: user },
        { seen: required - 1, required, what },
      );
    }
  }

  /** Whether a write of a newer version with another name had begun at `end`. */
  private wasGivenUp(
    register: Register,
    version: number,
    name: string | undefined,
    end: number,
  ): boolean {
    return [...register.writes.values()]
      .filter((write) => write.version > version && write.begin <= end)
      .some((write) => register.committed.get(write.version)?.username !== name);
  }

  private reportStale(
    register: Register,
    { subject, begin, end }: Read,
    { seen, required, what }: { seen: number; required: number; what: string },
  ): void {
    const missed = register
      .writesBetween(seen, required)
      .filter(({ acknowledgedAt }) => acknowledgedAt < begin);
    const lateMs = (begin - Math.min(...missed.map((write) => write.acknowledgedAt))) / 1000;
    const ofService = missed.filter(({ invalidated }) => invalidated !== 'outside');
    const isExempt = ofService.length === 0;
    if (isExempt && lateMs <= this.history.boundMs) {
      this.exempt('written past the service', lateMs);
      return;
    }
    const worst = ofService[0] ?? (missed[0] as Write);
    const missedWrite = `version ${worst.version} (${worst.invalidated})`;
    const late = `begun ${lateMs.toFixed(1)} ms after ${missedWrite} was acknowledged`;
    const overBound = isExempt ? `, over the bound of ${this.history.boundMs} ms` : '';
    this.violate({
      rule: 'G1: stale',
      subject,
      description: `${what}, ${late}${overBound}`,
      from: Math.min(worst.begin, begin),
      to: end,
    });
  }

  private reportOlderThanEarlier(
    register: Register,
    { subject, begin, end }: Read,
    seen: number,
    returned: number,
  ): void {
    const lateMs = (begin - (register.firstReturned.get(returned) as number)) / 1000;
    const missed = register.writesBetween(seen, returned);
    if (missed.every((write) => this.mayReadsDisagree(write, end))) {
      this.exempt('older than an earlier read', lateMs);
      return;
    }
    const late = `begun ${lateMs.toFixed(1)} ms after another read returned ${returned}`;
    this.violate({
      rule: 'older than an earlier read',
      subject,
      description: `version ${seen}, ${late}`,
      from: begin,
      to: end,
    });
  }

  /**
   * Whether reads may disagree about this write, which was not acknowledged when they began. While
   * its fence exists, all of them see PostgreSQL.
   */
  private mayReadsDisagree({ begin, acknowledgedAt, invalidated }: Write, end: number): boolean {
    if (invalidated === 'unfenced' || invalidated === 'outside') return true;
    const hasFenceExpired = end - begin > this.history.fenceMs * 1000;
    if (hasFenceExpired || overlaps(this.fenceLosses, begin, end)) return true;
    if (acknowledgedAt < Infinity) return false;
    // It may have been fenced in an epoch that was over at its COMMIT, or not at all.
    const mayBeUnfenced = invalidated === undefined && this.history.degradedWrites === 'wait';
    return mayBeUnfenced || overlaps(this.cacheChanges, begin, end);
  }

  private exempt(reason: string, lateMs: number): void {
    const exemption = (this.exemptions[reason] ??= { reads: 0, worstMs: 0 });
    exemption.reads++;
    exemption.worstMs = Math.max(exemption.worstMs, lateMs);
  }

  private violate(violation: Violation): void {
    const { rule } = violation;
    this.violationCounts[rule] = (this.violationCounts[rule] ?? 0) + 1;
    if (this.violations.length < MAX_VIOLATIONS) this.violations.push(violation);
  }

  private registerOf(subject: SubjectIndex): Register {
    return this.registers[subject] as Register;
  }
}

const overlaps = (faults: readonly FaultRecord[], from: number, to: number): boolean =>
  faults.some((fault) => fault.from <= to && fault.to >= from);
