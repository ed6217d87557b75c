/** The export of many orders: bounded in memory, at the client's speed, and gone when the client is gone or does not read. */
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { OrdersService } from '../../src/orders/orders.service.js';
import { startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, person } from '../support/factories.js';

const ROWS = 50_000;
let app: TestApp;
let admin: string;

beforeAll(async () => {
  app = await startApp({ SHUTDOWN_GRACE_SECONDS: '10' });
  const owner = await person(app);
  admin = await adminToken(app);
  const client = new pg.Client({ connectionString: app.databaseUrl });
  await client.connect();
  await client.query('SET session_replication_role = replica');
  await client.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
     SELECT gen_random_uuid(), $1, 'placed', 'EUR', $2, 9998, now() - n * interval '1 second' FROM generate_series(1, ${ROWS}) AS n`,
    [owner.id, JSON.stringify(ORDER.items)],
  );
  await client.end();
}, 60_000);
afterAll(async () => {
  await app?.close();
});

const open = (): Promise<http.IncomingMessage> =>
  new Promise((resolve, reject) => {
    const headers = { Authorization: `Bearer ${admin}` };
    http.get(`${app.url}/v1/orders/export`, { headers, agent: false }, resolve).on('error', reject);
  });

describe(`an export of ${ROWS} orders`, () => {
  it('holds no more of them at its end than at its beginning', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const heaps: number[] = [];
    let [lines, next] = [0, ROWS / 10];
    const response = await open();
    for await (const chunk of response) {
      const bytes = chunk as Buffer;
      for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines++;
      if (lines < next) continue;
      next += ROWS / 5;
      collect();
      heaps.push(process.memoryUsage().heapUsed);
    }
    expect(lines).toBe(ROWS);
    expect(heaps).toHaveLength(5);
    // All of them would be some 20 MB.
    expect((heaps.at(-1) as number) - (heaps[0] as number)).toBeLessThan(8_000_000);
  }, 60_000);

  it('reads no further than the client, and is cut at once by a stop when that client reads nothing', async () => {
    const orders = app.app.get(OrdersService);
    const all = orders.export.bind(orders);
    let [batches, released] = [0, false];
    orders.export = async function* () {
      try {
        for await (const batch of all()) {
          batches++;
          yield batch;
        }
      } finally {
        released = true;
      }
    };
    const response = await open();
    response.once('error', () => undefined);
    response.pause();
    // What the kernel and the parser hold is filled first; a busy machine takes its time.
    let [read, before] = [0, -1];
    for (let look = 0; look < 40 && (read === 0 || read !== before); look++) {
      before = read;
      await sleep(500);
      read = batches;
    }
    expect([read, released]).toEqual([before, false]);
    expect(read).toBeLessThan(ROWS / 500 / 2);
    const began = performance.now();
    await app.app.close();
    expect(performance.now() - began).toBeLessThan(5_000);
    for (let look = 0; look < 40 && !released; look++) await sleep(50);
    expect(released).toBe(true);
  });
});
