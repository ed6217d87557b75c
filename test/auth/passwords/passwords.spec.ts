/** How passwords are kept: at the parameters of today, also those of yesterday once they are used, and never too many at once. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { hash } from '@node-rs/argon2';
import pg from 'pg';
import { ARGON2ID } from '../../src/auth/passwords.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { logIn, PASSWORD, person, uniqueName } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

describe('a password', () => {
  let app: TestApp;
  let database: pg.Client;
  beforeAll(async () => {
    app = await startApp();
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  const kept = async (userId: string): Promise<string> =>
    (await database.query('SELECT password_hash FROM credentials WHERE user_id = $1', [userId]))
      .rows[0].password_hash as string;
  const open = (username: string, password = PASSWORD): Promise<Reply> =>
    app.call('POST', '/v1/sessions', { body: { username, password } });
  const keepOld = async (userId: string, form: object, password = PASSWORD): Promise<string> => {
    const old = await hash(password, {
      algorithm: 2,
      memoryCost: 8_192,
      timeCost: 2,
      parallelism: 1,
      ...form,
    });
    await database.query('UPDATE credentials SET password_hash = $2 WHERE user_id = $1', [
      userId,
      old,
    ]);
    return old;
  };

  it('is kept as an argon2id hash of today’s parameters', async () => {
    expect(await kept((await person(app)).id)).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  });

  it.each([{ memoryCost: 8_192 }, { memoryCost: 19_456, timeCost: 1 }])(
    'of an older hash (%j) gets one of today’s when it is used, and no session ends',
    async (form) => {
      const someone = await person(app);
      const old = await keepOld(someone.id, form);
      expectProblem(await open(someone.username, 'not the one it was'), 401, 'invalid-credentials');
      expect(await kept(someone.id)).toBe(old);
      expect((await open(someone.username)).status).toBe(201);
      const fresh = await kept(someone.id);
      expect(fresh).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
      expect((await open(someone.username)).status).toBe(201);
      expect(await kept(someone.id)).toBe(fresh);
      expect((await app.call('GET', '/v1/users/me', { token: someone.token })).status).toBe(200);
    },
  );

  it('of an older hash opens every one of ten logins at once', async () => {
    const someone = await person(app);
    await keepOld(someone.id, {});
    const replies = await Promise.all(Array.from({ length: 10 }, () => open(someone.username)));
    expect(replies.map(({ status }) => status)).toEqual(Array<number>(10).fill(201));
    expect(await kept(someone.id)).toMatch(/m=19456,t=2,p=1/);
  });

  it('of a stronger hash stays as it is', async () => {
    const someone = await person(app);
    const stronger = await keepOld(someone.id, { memoryCost: 24_576, timeCost: 3 });
    expect((await open(someone.username)).status).toBe(201);
    expect(await kept(someone.id)).toBe(stronger);
  });

  it('costs the same work whether it is wrong or its user unknown', async () => {
    const PAIRS = 15;
    /** Milliseconds of CPU of the whole process, the hashing threads among them: waiting for a core does not count. */
    const workOf = async (action: () => Promise<unknown>): Promise<number> => {
      const before = process.cpuUsage();
      await action();
      const { user, system } = process.cpuUsage(before);
      return (user + system) / 1000;
    };
    const median = (values: readonly number[]): number =>
      values.toSorted((one, other) => one - other)[values.length >> 1] as number;
    const names = [uniqueName(), uniqueName()];
    for (const username of names)
      await app.call('POST', '/v1/users', {
        body: { username, email: `${username}@example.com`, password: PASSWORD },
      });
    const refuse = async (username: string): Promise<void> =>
      expectProblem(await open(username, 'not the one that it is'), 401, 'invalid-credentials');
    for (const username of [uniqueName(), names[0] as string]) await refuse(username); // Compiled and connected.
    const [wrong, unknown, hashing]: [number[], number[], number[]] = [[], [], []];
    for (let pair = 0; pair < PAIRS; pair++) {
      const sides = [
        async () => wrong.push(await workOf(() => refuse(names[pair % 2] as string))),
        async () => unknown.push(await workOf(() => refuse(uniqueName()))),
      ];
      for (const side of pair % 2 ? sides : sides.toReversed()) await side();
      hashing.push(await workOf(() => hash(PASSWORD, ARGON2ID)));
    }
    const difference = median(wrong.map((work, pair) => work - (unknown[pair] as number)));
    // Both hash, and were one of them not to, the difference would be all of a hash.
    expect(Math.min(median(wrong), median(unknown))).toBeGreaterThan(median(hashing));
    expect(Math.abs(difference)).toBeLessThan(median(hashing) / 2);
  });

  it('waits its turn, and of too many at once the rest is shed with 503, while reads go on', async () => {
    const someone = await person(app);
    const token = await logIn(app, someone.username);
    const storm = Promise.all(Array.from({ length: 300 }, () => open(someone.username)));
    const read = await app.call('GET', '/v1/users/me', { token });
    const replies = await storm;
    const shed = replies.filter(({ status }) => status === 503);
    shed.forEach((reply) => expectProblem(reply, 503, 'overloaded'));
    expect(replies.filter(({ status }) => status === 201)).toHaveLength(300 - shed.length);
    expect(shed.length).toBeGreaterThan(50);
    expect(read.status).toBe(200);
    expect((await open(someone.username)).status).toBe(201);
  });
});
