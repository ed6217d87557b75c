/** The reads of a node's clients: rows by id, one or many, users by alias, and lists. */
import type { CachedRow } from '../../../src/platform/cache/cached.decorator.js';
import type { Random } from '../../support/random.js';
import { beginMicros, type SubjectIndex } from './history.js';
import type { NodeService } from './node-service.js';
import { recordRead, send } from './node-recorder.js';
import { MAX_LISTED_ORDERS, pickWeighted, type RoundSubjects } from './round-subjects.js';

/** How many emails are remembered for lookups. */
const MAX_EMAILS = 8;

type ReadAction = (random: Random) => Promise<unknown>;

export class NodeReader {
  /** Emails that users had a moment ago. */
  private readonly emails: string[] = [];
  private readonly actions: readonly (readonly [share: number, action: ReadAction])[];

  constructor(
    private readonly service: NodeService,
    private readonly subjects: RoundSubjects,
  ) {
    this.actions = [
      [0.4, (random) => this.readRow(subjects.pick('order', random))],
      [0.15, (random) => this.readDistinctOrders(random)],
      [0.08, (random) => this.readRow(subjects.pick('user', random))],
      [0.07, (random) => this.readRow(subjects.pick('session', random))],
      [0.03, (random) => this.readRow(subjects.pick('outside-order', random))],
      [0.1, (random) => this.readRepeatedOrders(random)],
      [0.13, (random) => this.readByAlias(random)],
      [0.04, (random) => this.readList(subjects.pick('list', random))],
    ];
  }

  async read(random: Random): Promise<void> {
    await pickWeighted(this.actions, random)(random);
  }

  /** The current version of a row or list, recorded as a read. */
  async readVersion(subject: SubjectIndex): Promise<number> {
    const { kind } = this.subjects.at(subject);
    if (kind === 'username') return 0;
    return kind === 'list' ? this.readList(subject) : this.readRow(subject);
  }

  private async readRow(subject: SubjectIndex): Promise<number> {
    const begin = beginMicros();
    const row = await this.find(subject);
    const version = row?.version ?? 0;
    recordRead(subject, version, row, begin);
    return version;
  }

  private find(subject: SubjectIndex): Promise<CachedRow | null> {
    const { kind, id } = this.subjects.at(subject);
    switch (kind) {
      case 'user':
        return this.service.users.findById(id);
      case 'session':
        return this.service.sessions.findById(id);
      default:
        return this.service.orders.findById(id);
    }
  }

  private readDistinctOrders(random: Random): Promise<void> {
    const orders = this.subjects.ofKind('order');
    return this.readOrders(random.shuffled(orders).slice(0, random.between(2, orders.length)));
  }

  private readRepeatedOrders(random: Random): Promise<void> {
    const picks = Array.from({ length: random.between(2, 8) }, () =>
      this.subjects.pick('order', random),
    );
    return this.readOrders(picks);
  }

  private async readOrders(subjects: readonly SubjectIndex[]): Promise<void> {
    const begin = beginMicros();
    const rows = await this.service.orders.findByIds(
      subjects.map((subject) => this.subjects.at(subject).id),
    );
    rows.forEach((row, index) =>
      recordRead(subjects[index] as SubjectIndex, row?.version ?? 0, row, begin),
    );
  }

  private readByAlias(random: Random): Promise<void> {
    const useEmail = this.emails.length > 0 && random.chance(0.3);
    return useEmail
      ? this.readByEmail(random.pick(this.emails), random)
      : this.readByUsername(this.subjects.pick('username', random), random);
  }

  private async readByEmail(email: string, random: Random): Promise<void> {
    const begin = beginMicros();
    const user = await this.service.users.findByAlias('email', email);
    // An email that nobody has is no finding: it was only remembered.
    if (!user) return;
    if (user.email?.toLowerCase() !== email.toLowerCase()) reportWrongRow(email, user);
    this.recordUser(user, begin, random);
  }

  private async readByUsername(subject: SubjectIndex, random: Random): Promise<void> {
    const { id: username } = this.subjects.at(subject);
    const begin = beginMicros();
    const user = await this.service.users.findByAlias('username', username);
    if (!user) {
      recordRead(subject, 0, null, begin);
      return;
    }
    if (user.username !== username.toLowerCase()) reportWrongRow(username, user);
    this.recordUser(user, begin, random);
  }

  private recordUser(user: CachedRow & UserAliases, begin: number, random: Random): void {
    recordRead(this.subjects.indexOf(user.id), user.version, user, begin);
    if (user.email) this.emails[random.between(0, MAX_EMAILS - 1)] = user.email;
  }

  /** The orders of a list are numbered by their totals, from 1 on. */
  private async readList(subject: SubjectIndex): Promise<number> {
    const begin = beginMicros();
    const { id } = this.subjects.at(subject);
    const rows = await this.service.orders.findCollection('ofUser', id, MAX_LISTED_ORDERS);
    const rowByNumber = new Map(rows.map((row) => [row.total, row]));
    let version = 0;
    while (rowByNumber.has(version + 1)) version++;
    recordRead(subject, version, rowByNumber.get(version) ?? null, begin);
    return version;
  }
}

interface UserAliases {
  readonly username: string | null;
  readonly email: string | null;
}

function reportWrongRow(value: string, { id, username, email }: CachedRow & UserAliases): void {
  const description = `Looking up ${value} found user ${id}, who has ${username} and ${email}`;
  send({ type: 'wrongRow', description });
}
