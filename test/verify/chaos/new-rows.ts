/**
 * The rows of one round. New rows make each round's history complete in itself, so that a run of
 * any length needs the memory of one round.
 */
import { randomUUID } from 'node:crypto';
import type { Client } from 'pg';
import { DECLARE_NEW_ROWS } from '../../../src/platform/cache/epoch/epoch-table.js';
import type { Random } from '../../support/random.js';
import { clearAudit, readAudit } from './audit.js';
import type { Subject, SubjectKind, WriteEvent } from './history.js';

const ROW_COUNTS = { order: 16, session: 5, user: 5, 'outside-order': 3 } as const;
const LIST_COUNT = 4;
/** Usernames that no user has at first. */
const FREE_USERNAME_COUNT = 3;

const INSERT_USER = 'INSERT INTO users (id, username, email) VALUES ($1, $2, $3)';
const INSERT_SESSION = `
  INSERT INTO sessions (id, user_id, token_hash, user_agent, last_seen_at, expires_at)
  VALUES ($1, $2, encode(sha256(convert_to($1::uuid::text, 'UTF8')), 'hex'), $3,
          now(), now() + interval '1 hour')`;
const INSERT_ORDER = `
  INSERT INTO orders (id, user_id, status, currency, items, total, note)
  VALUES ($1, $2, 'placed', 'EUR', $4, 1, $3)`;
const ITEMS = JSON.stringify([{ sku: 'A', name: 'a', quantity: 1, unitPrice: 1 }]);

export interface NewRows {
  readonly subjects: readonly Subject[];
  readonly ownerId: string;
  /** The events of their insertion. */
  readonly writes: readonly WriteEvent[];
}

export async function insertRows(client: Client, random: Random): Promise<NewRows> {
  const rows = new RowInserter(client, random.between(0, 2 ** 31).toString(36));
  await client.query('BEGIN');
  // No cache knows the rows: nothing is to be invalidated.
  await client.query(DECLARE_NEW_ROWS);
  await clearAudit(client);
  await rows.insertAll();
  await client.query('COMMIT');
  const { subjects, ownerId, writes } = rows;
  for (const { subject, version, stamp } of await readAudit(client, subjects)) {
    const written = [[subject, version]] as const;
    writes.push({ event: 'acknowledged', stamp, at: 0, invalidated: 'fenced', written });
  }
  return { subjects, ownerId, writes };
}

class RowInserter {
  readonly subjects: Subject[] = [];
  readonly writes: WriteEvent[] = [];
  readonly ownerId = randomUUID();
  private stamp = 0;

  constructor(
    private readonly client: Client,
    /** Makes the names of this round unique. */
    private readonly tag: string,
  ) {}

  async insertAll(): Promise<void> {
    await this.insertUser(this.ownerId, `owner-${this.tag}`, 0);
    for (const [kind, count] of Object.entries(ROW_COUNTS)) {
      for (let index = 0; index < count; index++) {
        await this.insertRow(kind as keyof typeof ROW_COUNTS, index);
      }
    }
    for (let index = 0; index < LIST_COUNT; index++) {
      const id = randomUUID();
      await this.insertUser(id, `c${index}-${this.tag}`, 0);
      this.addSubject('list', index, id);
    }
    for (let index = 0; index < ROW_COUNTS.user + FREE_USERNAME_COUNT; index++) {
      this.addSubject('username', index, this.usernameAt(index));
    }
  }

  private async insertRow(kind: keyof typeof ROW_COUNTS, index: number): Promise<void> {
    const id = randomUUID();
    this.stamp++;
    const stamp = String(this.stamp);
    this.writes.push({ event: 'begun', stamp: this.stamp, at: 0 });
    if (kind === 'user') {
      await this.insertUser(id, this.usernameAt(index), this.stamp);
    } else if (kind === 'session') {
      await this.client.query(INSERT_SESSION, [id, this.ownerId, stamp]);
    } else {
      await this.client.query(INSERT_ORDER, [id, this.ownerId, stamp, ITEMS]);
    }
    this.addSubject(kind, index, id);
  }

  private async insertUser(id: string, username: string, stamp: number): Promise<void> {
    await this.client.query(INSERT_USER, [id, username, `${stamp}@${username}.test`]);
  }

  private usernameAt(index: number): string {
    return `n${index}-${this.tag}`;
  }

  private addSubject(kind: SubjectKind, index: number, id: string): void {
    this.subjects.push({ kind, label: `${kind} ${index}`, id });
  }
}
