/**
 * The short form of `npm run verify -- relay`: two real nodes under faults. RELAY_SEED repeats the
 * faults of an earlier run.
 */
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { compile } from '../../../scripts/compile.mjs';
import { describeWithRabbitmq } from '../../support/describe-with-rabbitmq.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { type RabbitmqServer, startRabbitmq } from '../../support/rabbitmq.js';
import { runCampaign } from './campaign.js';

const SEED = Number(process.env.RELAY_SEED ?? Date.now() % 1_000_000);

describeWithRabbitmq(`two nodes with disturbed links, one of them killed (seed ${SEED})`, () => {
  let rabbitmq: RabbitmqServer;
  let compiled: Awaited<ReturnType<typeof compile>>;
  let database: TestDatabase;

  beforeAll(async () => {
    [rabbitmq, compiled, database] = await Promise.all([
      startRabbitmq(),
      compile(),
      createTestDatabase(),
    ]);
    // Where RabbitMQ must be installed first, that takes minutes.
  }, 400_000);

  afterAll(async () => {
    await rabbitmq?.stop();
    await database?.drop();
    await compiled?.remove();
  });

  it('lose no event and keep the order of each subject', async () => {
    const result = await runCampaign({
      folder: compiled.folder,
      databaseUrl: database.url,
      rabbitmq,
      orders: 40,
      seed: SEED,
      restartsRabbitmq: false,
      // With its own, the partitions of a lost session would be free after 30 s.
      relayTimeouts: { query: 2_000, idleSession: 1_500, heartbeat: 300 },
    });

    expect(result).toMatchObject({ lost: [], invented: [], outOfOrder: [], unmatched: 0 });
    expect(result.faults).toMatchObject({
      'node killed with SIGKILL': 1,
      'PostgreSQL session lost that has locked partitions': 1,
    });
    expect(result.takeoverSeconds).toHaveLength(1);
    expect(result.written).toBeGreaterThan(80);
  }, 300_000);
});
