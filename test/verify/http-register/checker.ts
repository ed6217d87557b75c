/** Checks what HTTP clients saw against what was acknowledged to them. */
import { GONE, type History, type Write } from './history.js';

export const RULES = {
  stale: 'a read that begins after a write was acknowledged shows that version or a later one',
  etag: 'the ETag is the version',
  representation: 'one version has one representation',
  list: 'a list has every order that was acknowledged before it was requested',
  search: 'a search by name finds the user who has the name, and nobody else',
  'ended session': 'no node accepts a session whose end was acknowledged',
  'live session': 'every node accepts a session until its end is requested',
  'one answer': 'every answer to one Idempotency-Key is the same',
} as const;

export type Rule = keyof typeof RULES;

export interface Violation {
  readonly rule: Rule;
  readonly details: string;
}

/** Orders on the page of a list. A longer list is not judged. */
export const PAGE_SIZE = 100;

export const checkHistory = (history: History): Violation[] => new HttpChecker(history).check();

class HttpChecker {
  private readonly writesByResource = new Map<string, Write[]>();
  private readonly violations: Violation[] = [];

  constructor(private readonly history: History) {
    for (const write of history.writes) {
      const writes = this.writesByResource.get(write.resource) ?? [];
      writes.push(write);
      this.writesByResource.set(write.resource, writes);
    }
  }

  check(): Violation[] {
    this.checkReads();
    this.checkRepresentations();
    this.checkLists();
    this.checkSearches();
    this.checkSessions();
    this.checkAnswers();
    return this.violations;
  }

  private checkReads(): void {
    for (const { resource, request, version, etag, begin, end } of this.history.reads) {
      const required = this.newestAcknowledged(resource, begin);
      const isGone = version === 0 && this.hasBegun(resource, GONE, end);
      const seen = isGone ? GONE : version;
      if (required && seen < required.version) {
        const late = (begin - required.acknowledgedAt).toFixed(1);
        const missed = nameOf(required.version);
        const details = `${request}: ${nameOf(seen)}, ${late} ms after ${missed} was acknowledged`;
        this.violate('stale', `${resource}: ${details}`);
      }
      const isTagWrong = etag !== undefined && etag !== `"${version}"`;
      if (isTagWrong) this.violate('etag', `${request}: ${etag} of version ${version}`);
    }
  }

  private checkRepresentations(): void {
    const bodies = new Map<string, string>();
    for (const { resource, request, version, body } of this.history.reads) {
      if (body === undefined) continue;
      const key = `${resource} ${version}`;
      const known = bodies.get(key) ?? body;
      bodies.set(key, known);
      if (body !== known) this.violate('representation', `${request}: ${body} and ${known}`);
    }
  }

  private checkLists(): void {
    const placed = this.history.writes.filter(({ owner }) => owner !== undefined);
    for (const { owner, request, orders, begin } of this.history.lists) {
      if (orders.length >= PAGE_SIZE) continue;
      const missing = placed.filter(
        (write) =>
          write.owner === owner && write.acknowledgedAt < begin && !orders.includes(write.resource),
      );
      for (const { resource } of missing) this.violate('list', `${request}: lacks ${resource}`);
    }
  }

  private checkSearches(): void {
    const named = this.history.writes.filter((write) => write.name !== undefined);
    for (const { name, request, user, begin, end } of this.history.searches) {
      const taken = named.find((write) => write.name === name);
      if (!taken) continue;
      const { resource, version } = taken;
      const wasGivenUp = this.newestAcknowledged(resource, begin)?.version ?? 0;
      const isWrongUser = user !== undefined && user !== resource;
      const isFormerUser = user === resource && wasGivenUp > version;
      const isMissing =
        user === undefined &&
        taken.acknowledgedAt < begin &&
        !this.hasBegunAfter(resource, version, end);
      if (isWrongUser || isFormerUser || isMissing) {
        this.violate('search', `${request}: found ${user ?? 'nobody'}, ${resource} took ${name}`);
      }
    }
  }

  private checkSessions(): void {
    for (const { session, request, isAccepted, begin, end } of this.history.sessionUses) {
      const isEnded = this.newestAcknowledged(session, begin) !== undefined;
      const mayBeEnded = this.hasBegun(session, GONE, end);
      if (isAccepted && isEnded) this.violate('ended session', `${request}: accepted ${session}`);
      if (!isAccepted && !mayBeEnded) {
        this.violate('live session', `${request}: rejected ${session}`);
      }
    }
  }

  private checkAnswers(): void {
    const answers = new Map<string, string>();
    for (const { key, answer } of this.history.answers) {
      const known = answers.get(key) ?? answer;
      answers.set(key, known);
      if (answer !== known) this.violate('one answer', `key ${key}: ${answer} and ${known}`);
    }
  }

  /** The write of the greatest version that was acknowledged before `time`. */
  private newestAcknowledged(resource: string, time: number): Write | undefined {
    const acknowledged = this.writesOf(resource).filter((write) => write.acknowledgedAt < time);
    return acknowledged.sort((a, b) => b.version - a.version)[0];
  }

  private hasBegun(resource: string, version: number, time: number): boolean {
    return this.writesOf(resource).some((write) => write.version === version && write.begin < time);
  }

  private hasBegunAfter(resource: string, version: number, time: number): boolean {
    return this.writesOf(resource).some((write) => write.version > version && write.begin < time);
  }

  private writesOf(resource: string): readonly Write[] {
    return this.writesByResource.get(resource) ?? [];
  }

  private violate(rule: Rule, details: string): void {
    this.violations.push({ rule, details });
  }
}

function nameOf(version: number): string {
  if (version === GONE) return 'its end';
  return version === 0 ? 'not found' : `version ${version}`;
}
