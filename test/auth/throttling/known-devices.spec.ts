/** Which devices the service remembers of a user, and for how long. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import {
  KnownDevicesService,
  MAX_DEVICES_PER_USER,
} from '../../../src/auth/throttling/known-devices.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { PASSWORD, registerUser, type TestUser } from '../../support/factories.js';

describe('known devices', () => {
  let app: TestApp;
  let database: pg.Client;
  let user: TestUser;

  beforeAll(async () => {
    app = await startApp();
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  const countDevices = async (userId: string): Promise<number> => {
    const sql = 'SELECT count(*)::int AS devices FROM known_devices WHERE user_id = $1';
    const { rows } = await database.query<{ devices: number }>(sql, [userId]);
    return rows[0]?.devices as number;
  };

  async function tryLogIn(userAgent: string, password: string): Promise<number> {
    const { status } = await app.call('POST', '/v1/sessions', {
      body: { username: user.username, password },
      headers: { 'User-Agent': userAgent },
    });
    return status;
  }

  it('of a user are at most 20: the least recently used one is forgotten', async () => {
    expect(MAX_DEVICES_PER_USER).toBe(20);
    user = await registerUser(app);
    for (let device = 0; device <= MAX_DEVICES_PER_USER; device++) {
      await tryLogIn(`device/${device}`, PASSWORD);
    }
    expect(await countDevices(user.id)).toBe(MAX_DEVICES_PER_USER);
    for (let failure = 0; failure < 10; failure++) {
      await tryLogIn('stranger/1.0', 'not the password of the user');
    }
    expect(await tryLogIn(`device/${MAX_DEVICES_PER_USER}`, PASSWORD)).toBe(201);
    expect(await tryLogIn('device/1', PASSWORD)).toBe(201);
    // Forgotten, so it counts with the strangers.
    expect(await tryLogIn('device/0', PASSWORD)).toBe(429);
  });

  it('are forgotten with their user', async () => {
    user = await registerUser(app);
    expect(await countDevices(user.id)).toBe(1);
    await app.call('DELETE', `/v1/users/${user.id}`, { token: user.token });
    expect(await countDevices(user.id)).toBe(0);
  });

  it('are forgotten when they were not used for 180 days, up to 1000 at a time', async () => {
    user = await registerUser(app);
    await database.query(
      `INSERT INTO known_devices (user_id, device_hash, last_used_at)
       SELECT $1, lpad(days::text, 64, '0'), now() - make_interval(days => days)
       FROM generate_series(171, 1190) AS days`,
      [user.id],
    );
    const devices = app.app.get(KnownDevicesService, { strict: false });
    await devices.purge();
    expect(await countDevices(user.id)).toBe(1 + 1020 - 1000);
    await devices.purge();
    const { rows } = await database.query<{ days: number }>(
      `SELECT right(device_hash, 8)::int AS days FROM known_devices
       WHERE user_id = $1 AND device_hash LIKE '00000000%' ORDER BY days`,
      [user.id],
    );
    const left = rows.map(({ days }) => days);
    expect(left).toEqual([171, 172, 173, 174, 175, 176, 177, 178, 179]);
  });
});
