/** How passwords are hashed and verified, through the API and by the work that it costs. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { hash } from '@node-rs/argon2';
import pg from 'pg';
import { LANES } from '../../../src/auth/passwords/hashing-queue.js';
import {
  ARGON2ID,
  MAX_HASHING_THREADS,
  PasswordsService,
} from '../../../src/auth/passwords/passwords.service.js';
import { UsersService } from '../../../src/users/users.service.js';
import { REAL_HASHING, startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { PASSWORD, registerUser, uniqueUsername } from '../../support/factories.js';
import { Gate } from '../../support/gate.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';

const WRONG_PASSWORD = 'not the password of the user';
const CURRENT_HASH = /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/;

/** A task of a hashing thread, as far as it decides what the task costs. */
interface HashingTask {
  readonly operation: 'estimate' | 'hash' | 'verify';
  /** `v=19,m=19456,t=2,p=1` of the hash that is verified. */
  readonly parameters: string | undefined;
}

interface ThreadTask {
  readonly hash?: string;
  readonly texts?: readonly string[];
}

function operationOf({ hash: stored, texts }: ThreadTask): HashingTask['operation'] {
  if (texts !== undefined) return 'estimate';
  return stored === undefined ? 'hash' : 'verify';
}

describe('passwords', () => {
  let app: TestApp;
  let database: pg.Client;

  beforeAll(async () => {
    app = await startApp({}, undefined, undefined, [REAL_HASHING]);
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  async function storedHashOf(userId: string): Promise<string> {
    const sql = 'SELECT password_hash FROM credentials WHERE user_id = $1';
    const { rows } = await database.query<{ password_hash: string }>(sql, [userId]);
    return rows[0]?.password_hash as string;
  }

  /** Replaces the stored hash by one of the same password with these parameters. */
  async function storeHash(userId: string, parameters: Partial<typeof ARGON2ID>): Promise<string> {
    const stored = await hash(PASSWORD, { ...ARGON2ID, ...parameters });
    await database.query('UPDATE credentials SET password_hash = $2 WHERE user_id = $1', [
      userId,
      stored,
    ]);
    return stored;
  }

  const tryLogIn = (username: string, password = PASSWORD): Promise<Reply> =>
    app.call('POST', '/v1/sessions', { body: { username, password } });

  /** The tasks of the hashing threads while `action` runs. */
  async function tasksOf(action: () => Promise<unknown>): Promise<HashingTask[]> {
    const tasks: HashingTask[] = [];
    const { threads } = app.app.get(PasswordsService, { strict: false }) as unknown as {
      threads: { run(task: ThreadTask): Promise<unknown> };
    };
    const run = threads.run.bind(threads);
    threads.run = (task) => {
      tasks.push({
        operation: operationOf(task),
        parameters: task.hash?.split('$').slice(1, 4).join(),
      });
      return run(task);
    };
    try {
      await action();
    } finally {
      threads.run = run;
    }
    return tasks;
  }

  it('a new password is stored as an argon2id hash of the current parameters', async () => {
    const user = await registerUser(app);
    expect(await storedHashOf(user.id)).toMatch(CURRENT_HASH);
  });

  it('a new password is judged on a hashing thread, and hashed only if it is accepted', async () => {
    const register = (password: string): Promise<Reply> => {
      const username = uniqueUsername();
      const body = { username, email: `${username}@example.com`, password };
      return app.call('POST', '/v1/users', { body });
    };
    const ofStrong = await tasksOf(() => register(PASSWORD));
    const ofWeak = await tasksOf(() => register('qwertyuiopasdfgh'));
    const ofOwnWords = await tasksOf(() => register('holdfast password!'));
    expect(ofStrong.map(({ operation }) => operation)).toEqual(['estimate', 'hash']);
    expect(ofWeak.map(({ operation }) => operation)).toEqual(['estimate']);
    expect(ofOwnWords).toEqual([]);
  });

  it('the current parameters are at least those that OWASP recommends', () => {
    expect(ARGON2ID.memoryCost).toBeGreaterThanOrEqual(19_456);
    expect(ARGON2ID.timeCost).toBeGreaterThanOrEqual(2);
  });

  it.each([
    ['less memory', { memoryCost: 8_192 }],
    ['fewer passes', { timeCost: 1 }],
  ])('a login replaces a hash of weaker parameters (%s) and ends no session', async (_, weaker) => {
    const user = await registerUser(app);
    await storeHash(user.id, weaker as object);
    expect((await tryLogIn(user.username)).status).toBe(201);
    const replaced = await storedHashOf(user.id);
    expect(replaced).toMatch(CURRENT_HASH);
    expect((await tryLogIn(user.username)).status).toBe(201);
    expect(await storedHashOf(user.id)).toBe(replaced);
    const me = await app.call('GET', '/v1/users/me', { token: user.token });
    expect(me.status).toBe(200);
  });

  it('a login with a wrong password keeps a hash of weaker parameters', async () => {
    const user = await registerUser(app);
    const weaker = await storeHash(user.id, { memoryCost: 8_192 } as object);
    const reply = await tryLogIn(user.username, WRONG_PASSWORD);
    expectProblem(reply, 401, 'invalid-credentials');
    expect(await storedHashOf(user.id)).toBe(weaker);
  });

  it('ten logins at once with a hash of weaker parameters all succeed', async () => {
    const user = await registerUser(app);
    await storeHash(user.id, { memoryCost: 8_192 } as object);
    const replies = await Promise.all(Array.from({ length: 10 }, () => tryLogIn(user.username)));
    expect(replies.map(({ status }) => status)).toEqual(Array<number>(10).fill(201));
    expect(await storedHashOf(user.id)).toMatch(CURRENT_HASH);
  });

  it('a login does not replace the hash of a password that was changed meanwhile', async () => {
    const user = await registerUser(app);
    await storeHash(user.id, { memoryCost: 8_192 } as object);
    const passwords = app.app.get(PasswordsService, { strict: false });
    const rehash = passwords.hash.bind(passwords);
    const changed = await hash('the new password of the user', ARGON2ID);
    passwords.hash = async (...parameters) => {
      passwords.hash = rehash;
      await database.query('UPDATE credentials SET password_hash = $2 WHERE user_id = $1', [
        user.id,
        changed,
      ]);
      return rehash(...parameters);
    };
    expectProblem(await tryLogIn(user.username), 401, 'invalid-credentials');
    expect(await storedHashOf(user.id)).toBe(changed);
  });

  it('a login keeps a hash of stronger parameters', async () => {
    const user = await registerUser(app);
    const stronger = await storeHash(user.id, { memoryCost: 24_576, timeCost: 3 } as object);
    expect((await tryLogIn(user.username)).status).toBe(201);
    expect(await storedHashOf(user.id)).toBe(stronger);
  });

  it('a wrong password and an unknown user cost one and the same verification', async () => {
    const user = await registerUser(app);
    const reject = async (username: string): Promise<void> => {
      const reply = await tryLogIn(username, WRONG_PASSWORD);
      expectProblem(reply, 401, 'invalid-credentials');
    };
    const ofWrongPassword = await tasksOf(() => reject(user.username));
    const ofUnknownUsername = await tasksOf(() => reject(uniqueUsername()));
    const ofUnknownEmail = await tasksOf(() => reject(`${uniqueUsername()}@example.com`));
    expect(ofWrongPassword).toEqual([
      { operation: 'verify', parameters: 'argon2id,v=19,m=19456,t=2,p=1' },
    ]);
    expect(ofUnknownUsername).toEqual(ofWrongPassword);
    expect(ofUnknownEmail).toEqual(ofWrongPassword);
  });

  it('the hash for unknown users is never right, not even with its own password', async () => {
    const passwords = app.app.get(PasswordsService, { strict: false });
    let lookups = 0;
    const findNoHash = (): Promise<{ passwordHash: undefined }> => {
      lookups++;
      return Promise.resolve({ passwordHash: undefined });
    };
    const verified = await passwords.verify(
      { lane: 'login', caller: 'test' },
      'the password of nobody at all',
      findNoHash,
    );
    expect(verified).toEqual({ passwordHash: undefined, isCorrect: false });
    expect(lookups).toBe(1);
  });

  it('logins beyond the queue are rejected with 503, and reads go on', async () => {
    const CAPACITY = MAX_HASHING_THREADS * (1 + LANES.login.maxWaitingOfCaller);
    const EXCESS = 20;
    const user = await registerUser(app);
    // Logins that have a hashing slot stop at their first query, so that none finishes.
    const users = app.app.get(UsersService, { strict: false });
    const findByLogin = users.findByLogin.bind(users);
    const gate = new Gate();
    users.findByLogin = async (loginName) => {
      await gate.opened;
      return findByLogin(loginName);
    };
    const replies: Reply[] = [];
    const logins = Array.from({ length: CAPACITY + EXCESS }, async () => {
      replies.push(await tryLogIn(user.username));
    });
    try {
      await eventually('the excess logins are rejected', () => replies.length >= EXCESS);
      const read = await app.call('GET', '/v1/users/me', { token: user.token });
      expect(read.status).toBe(200);
      expect(replies).toHaveLength(EXCESS);
      replies.forEach((reply) => expectProblem(reply, 503, 'overloaded'));
    } finally {
      users.findByLogin = findByLogin;
      gate.open();
      await Promise.all(logins);
    }
    expect(replies.filter(({ status }) => status === 201)).toHaveLength(CAPACITY);
  });

  it('a known device logs in while floods of logins and registrations fill their lanes', async () => {
    const user = await registerUser(app);
    const cookie = (await tryLogIn(user.username)).headers.get('set-cookie') as string;
    const passwords = app.app.get(PasswordsService, { strict: false });
    const gate = new Gate();
    const finished: string[] = [];
    const flood = (['login', 'new-password'] as const).flatMap((lane) =>
      Array.from({ length: MAX_HASHING_THREADS * LANES[lane].maxWaiting + 1 }, async (_, index) => {
        const turn = { lane, caller: `192.0.2.${index}` };
        await passwords.verify(turn, WRONG_PASSWORD, async () => {
          await gate.opened;
          return { passwordHash: undefined };
        });
        finished.push(lane);
      }).map((request) => request.catch(() => finished.push('rejected'))),
    );
    const known = app
      .call('POST', '/v1/sessions', {
        body: { username: user.username, password: PASSWORD },
        headers: { Cookie: cookie.split(';')[0] as string },
      })
      .finally(() => finished.push('known device'));
    try {
      expectProblem(await tryLogIn(user.username), 503, 'overloaded');
      const username = uniqueUsername();
      const registration = await app.call('POST', '/v1/users', {
        body: { username, email: `${username}@example.com`, password: PASSWORD },
      });
      expectProblem(registration, 503, 'overloaded');
      const { queue } = passwords as unknown as {
        queue: { lanes: Record<string, { isEmpty: boolean }> };
      };
      await eventually('the known device waits', () => !queue.lanes['known-device']?.isEmpty);
    } finally {
      gate.open();
      await Promise.all(flood);
    }
    expect((await known).status).toBe(201);
    const served = finished.filter((name) => name !== 'rejected');
    expect(served.indexOf('known device')).toBeLessThan(10 * MAX_HASHING_THREADS);
  });
});
