/** The token by which a login recognises a device: what it proves, and to whom. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import {
  deviceCookieOf,
  DeviceTokensService,
  deviceTokenOf,
  MAX_UNUSED_SECONDS,
} from '../../../src/auth/throttling/device-tokens.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { PASSWORD, registerUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { TestClock } from '../../support/test-clock.js';

const ADA = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';
const IDA = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6b';

describe('a device token', () => {
  const clock = new TestClock();
  let app: TestApp;
  let devices: DeviceTokensService;

  beforeAll(async () => {
    app = await startApp({}, undefined, undefined, [clock.provider]);
    devices = app.app.get(DeviceTokensService, { strict: false });
  });
  afterAll(() => app.close());

  const tokenIn = (cookies: string): string | undefined =>
    deviceTokenOf({ headers: { cookie: cookies } } as never);

  it('proves the user and the device that it was issued to, on every node', async () => {
    const token = await devices.issue(ADA, undefined);
    const otherNode = new DeviceTokensService(app.app.get(DataSource));
    const known = await otherNode.verify(token);
    expect(known).toEqual({ userId: ADA, deviceId: expect.stringMatching(/^[0-9a-f]{32}$/) });
    const renewed = await devices.issue(ADA, known);
    expect(await devices.verify(renewed)).toEqual(known);
  });

  it('of another user becomes a new device', async () => {
    const first = await devices.verify(await devices.issue(ADA, undefined));
    const second = await devices.verify(await devices.issue(IDA, first));
    expect(second?.userId).toBe(IDA);
    expect(second?.deviceId).not.toBe(first?.deviceId);
  });

  it('is worth nothing when any of its characters is changed', async () => {
    const token = await devices.issue(ADA, undefined);
    const forged = Array.from({ length: token.length - 1 }, (_, index) => {
      const character = token[index] === 'A' ? 'B' : 'A';
      return token.slice(0, index) + character + token.slice(index + 1);
    });
    const proofs = await Promise.all(forged.map((text) => devices.verify(text)));
    expect(proofs).toEqual(forged.map(() => undefined));
  });

  it.each(['', 'A', 'A'.repeat(93), 'A'.repeat(96)])(
    'is worth nothing when its length is another: "%s"',
    async (text) => {
      expect(await devices.verify(text)).toBeUndefined();
    },
  );

  it('is recognised again after a failure to read the key', async () => {
    const token = await devices.issue(ADA, undefined);
    const dataSource = app.app.get(DataSource);
    let failures = 1;
    const unsteady = {
      query: (sql: string) =>
        failures-- > 0 ? Promise.reject(new Error('no connection')) : dataSource.query(sql),
    };
    const otherNode = new DeviceTokensService(unsteady as unknown as DataSource);
    await expect(otherNode.verify(token)).rejects.toThrow('no connection');
    expect((await otherNode.verify(token))?.userId).toBe(ADA);
  });

  it('is worth nothing when it was not used for 180 days', async () => {
    const token = await devices.issue(ADA, undefined);
    clock.advance((MAX_UNUSED_SECONDS - 10) * 1000);
    expect(await devices.verify(token)).toBeDefined();
    clock.advance(20_000);
    expect(await devices.verify(token)).toBeUndefined();
  });

  it('is found among other cookies, and only in its own form', async () => {
    const token = await devices.issue(ADA, undefined);
    const [cookie = ''] = deviceCookieOf(token).split(';');
    expect([tokenIn(cookie), tokenIn(`a=b; ${cookie}; c=d`)]).toEqual([token, token]);
    const others: string[] = [
      '',
      'a=b',
      `x${cookie}`,
      `${cookie}A`,
      cookie.slice(0, -1),
      `a="; ${cookie}x"`,
    ];
    expect(others.map(tokenIn)).toEqual(others.map(() => undefined));
  });

  it('costs no query when it is forged', async () => {
    await devices.verify(await devices.issue(ADA, undefined));
    const { logger } = app.app.get(DataSource);
    const { logQuery } = logger;
    const queries: string[] = [];
    logger.logQuery = (sql) => queries.push(sql);
    await devices.verify('A'.repeat(94));
    logger.logQuery = logQuery;
    expect(queries.filter((sql) => sql.includes('device'))).toEqual([]);
  });

  it('is a cookie that scripts, other hosts and plain HTTP do not get, only after a login', async () => {
    const user = await registerUser(app);
    const tryLogIn = (password: string): Promise<Reply> =>
      app.call('POST', '/v1/sessions', { body: { username: user.username, password } });
    const cookie = (await tryLogIn(PASSWORD)).headers.get('set-cookie');
    expect(cookie).toMatch(
      /^__Host-holdfast_device=[\w-]{94}; Path=\/; Max-Age=\d+; Secure; HttpOnly; SameSite=Strict$/,
    );
    const failed = await tryLogIn('not the password of the user');
    expect([failed.status, failed.headers.get('set-cookie')]).toEqual([401, null]);
    const headers = { Cookie: cookie?.split(';')[0] as string };
    expect((await app.call('GET', '/v1/users/me', { headers })).status).toBe(401);
  });
});
