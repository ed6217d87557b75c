/** A filled database is migrated, one migration after the other, while requests go on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { applyOnly, findPending, revertFrom } from '../../support/migrations.js';
import { percentile } from '../../support/percentile.js';
import { Random } from '../../support/random.js';
import { Load, type RequestRecord } from './load.js';
import { type LockWait, LockWaits } from './lock-waits.js';
import { fill } from './rows.js';

/** The first migration that changes tables with rows. */
const FIRST_MIGRATION = 'OrderConstraints';
/** The time of nothing but requests, before the first migration and after the last. */
const CALM_MS = 2_000;

export interface CampaignOptions {
  /** Of a migrated database without rows. */
  readonly url: string;
  readonly orders: number;
  readonly clients: number;
  readonly seed: number;
}

export interface PhaseResult {
  /** The migration's name, or `(none)`. */
  readonly name: string;
  readonly seconds: number;
  readonly requests: number;
  /** Milliseconds of the requests that were under way in this phase. */
  readonly p99: number;
  readonly longest: RequestRecord | undefined;
  readonly failed: readonly RequestRecord[];
  /** The longest wait for a lock behind the migration. */
  readonly lockWait: LockWait | undefined;
}

export const durationOf = ({ begin, end }: RequestRecord): number => end - begin;

export async function runCampaign(options: CampaignOptions): Promise<PhaseResult[]> {
  const { url, orders, clients, seed } = options;
  await revertFrom(url, FIRST_MIGRATION);
  const client = new Client({ connectionString: url });
  await client.connect();
  await fill(client, orders).finally(() => client.end());

  const load = new Load({ url, orders, clients, random: new Random(seed) });
  const waits = new LockWaits();
  const spans: { name: string; begin: number; end: number; lockWait: LockWait | undefined }[] = [];
  const runPhase = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    const begin = performance.now();
    await work();
    spans.push({ name, begin, end: performance.now(), lockWait: waits.take() });
  };
  load.start();
  waits.start(url);
  try {
    await runPhase('(none)', () => sleep(CALM_MS));
    for (const name of await findPending(url)) {
      await runPhase(name, () => applyOnly(url, name));
    }
    await runPhase('(none)', () => sleep(CALM_MS));
  } finally {
    await waits.stop();
    await load.stop();
  }
  return spans.map((span) => {
    const { begin, end } = span;
    const during = load.records.filter((record) => record.begin < end && record.end > begin);
    const longest = during.reduce<RequestRecord | undefined>(
      (found, record) => (found && durationOf(found) >= durationOf(record) ? found : record),
      undefined,
    );
    return {
      name: span.name,
      seconds: (end - begin) / 1000,
      requests: during.length,
      p99: percentile(during.map(durationOf), 0.99),
      longest,
      failed: during.filter(({ error }) => error !== undefined),
      lockWait: span.lockWait,
    };
  });
}
