/** Requests in plain SQL, with the service's timeouts, and how long each of them took. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { DATABASE_TIMEOUTS_MS } from '../../../src/platform/database/data-source.js';
import type { Random } from '../../support/random.js';
import { EXPORT_BATCH, pickSubjects, READS, type RequestKind, WRITES } from './rows.js';

/** How long an export keeps its transaction open after a batch. */
const EXPORT_HOLD_MS = 400;
const PAUSE_MS = 5;

export interface RequestRecord {
  readonly name: string;
  /** performance.now() at its begin and at its end. */
  readonly begin: number;
  readonly end: number;
  /** SQLSTATE or message; undefined for a request that succeeded. */
  readonly error?: string;
}

export interface LoadOptions {
  readonly url: string;
  /** How many orders exist. */
  readonly orders: number;
  readonly random: Random;
  /** Clients of each kind of request. */
  readonly clients: number;
}

export class Load {
  readonly records: RequestRecord[] = [];
  private isStopping = false;
  private loops: Promise<void>[] = [];

  constructor(private readonly options: LoadOptions) {}

  start(): void {
    const kinds = [...WRITES, ...READS].flatMap((kind) =>
      Array.from({ length: this.options.clients }, () => kind),
    );
    this.loops = [
      ...kinds.map((kind) => this.withClient((client) => this.sendRequests(client, kind))),
      this.withClient((client) => this.sendExports(client)),
    ];
  }

  /** Resolves when the requests that were under way have ended. */
  async stop(): Promise<void> {
    this.isStopping = true;
    await Promise.all(this.loops);
  }

  /** How many requests have ended by now. */
  get count(): number {
    return this.records.length;
  }

  private async withClient(work: (client: Client) => Promise<void>): Promise<void> {
    const client = new Client({
      connectionString: this.options.url,
      application_name: 'load',
      statement_timeout: DATABASE_TIMEOUTS_MS.statement,
      lock_timeout: DATABASE_TIMEOUTS_MS.lock,
    });
    await client.connect();
    try {
      await work(client);
    } finally {
      await client.end();
    }
  }

  private async sendRequests(client: Client, kind: RequestKind): Promise<void> {
    const { random, orders } = this.options;
    while (!this.isStopping) {
      const statements = kind.statements(pickSubjects(random, orders));
      await this.record(client, kind.name, async () => {
        if (statements.length === 1) {
          await client.query(statements[0] as string);
          return;
        }
        await client.query('BEGIN');
        for (const sql of statements) await client.query(sql);
        await client.query('COMMIT');
      });
      await sleep(PAUSE_MS * random.next() * 2);
    }
  }

  /** Only the batch is a request: the transaction is as long as the client wants it to be. */
  private async sendExports(client: Client): Promise<void> {
    while (!this.isStopping) {
      await client.query('BEGIN');
      await this.record(client, 'export a batch', async () => {
        await client.query(EXPORT_BATCH);
      });
      await sleep(EXPORT_HOLD_MS);
      await client.query('ROLLBACK');
      await sleep(EXPORT_HOLD_MS * this.options.random.next());
    }
  }

  private async record(client: Client, name: string, send: () => Promise<void>): Promise<void> {
    const begin = performance.now();
    try {
      await send();
      this.records.push({ name, begin, end: performance.now() });
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      const text = `${code ?? 'no answer'}: ${message}`;
      this.records.push({ name, begin, end: performance.now(), error: text });
      await client.query('ROLLBACK');
    }
  }
}
