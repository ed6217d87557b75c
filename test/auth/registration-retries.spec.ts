/** Idempotency-Key of `POST /v1/users`: what a repetition gets, and who may repeat. */
import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import canonicalize from 'canonicalize';
import pg from 'pg';
import { PasswordsService } from '../../src/auth/passwords/passwords.service.js';
import { UnitOfWork } from '../../src/platform/database/unit-of-work.js';
import { startApp, type TestApp } from '../support/app.js';
import { eventually } from '../support/eventually.js';
import { logIn, logInAsAdmin, PASSWORD, uniqueUsername } from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { expectProblem } from '../support/problem.js';

const OTHER_PASSWORD = 'eleven tall ships at anchor';

interface Registration {
  readonly username: string;
  readonly email: string;
  readonly password: string;
}

interface KeyRow {
  readonly fingerprint: string;
}

describe('a registration with an Idempotency-Key', () => {
  let app: TestApp;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp({ TRUST_PROXY: '127.0.0.1' });
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
  });
  afterEach(() => void jest.restoreAllMocks());
  afterAll(async () => {
    await client?.end();
    await app?.close();
  });

  const newKey = (): string => crypto.randomUUID();
  function newRegistration(): Registration {
    const username = uniqueUsername();
    return { username, email: `${username}@example.com`, password: PASSWORD };
  }
  const register = (key: string, body: object, address = '192.0.2.1'): Promise<Reply> =>
    app.call('POST', '/v1/users', {
      body,
      headers: { 'Idempotency-Key': key, 'X-Forwarded-For': address },
    });
  const partsOf = ({ status, text, headers }: Reply): unknown[] => [
    status,
    text,
    headers.get('location'),
    headers.get('etag'),
    headers.get('content-type'),
  ];
  const isReplay = ({ headers }: Reply): boolean => headers.get('idempotent-replayed') === 'true';
  async function rowsOf(key: string): Promise<KeyRow[]> {
    const sql = 'SELECT * FROM idempotency_keys WHERE key = $1';
    return (await client.query<KeyRow>(sql, [key])).rows;
  }

  it('that is repeated → gets the same answer, and one user exists', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    const first = await register(key, registration);
    const repetition = await register(key, registration);
    expect([first.status, isReplay(first)]).toEqual([201, false]);
    expect(partsOf(repetition)).toEqual(partsOf(first));
    expect(isReplay(repetition)).toBe(true);
    expect(first.headers.get('location')).toBe(`/v1/users/${first.body.id}`);
    expect(first.headers.get('etag')).toBe('"1"');
    await logIn(app, registration.username);
  });

  it('that is repeated 12 times at once → gets one answer, and one user exists', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    const conflicts: Reply[] = [];
    const sendUntilAnswered = (): Promise<Reply> =>
      eventually('the request was answered', async () => {
        const reply = await register(key, registration);
        if (reply.status !== 409) return reply;
        conflicts.push(reply);
        return undefined as unknown as Reply;
      });
    const replies = await Promise.all(Array.from({ length: 12 }, sendUntilAnswered));
    expect(new Set(replies.map((reply) => JSON.stringify(partsOf(reply)))).size).toBe(1);
    expect(replies.filter((reply) => !isReplay(reply))).toHaveLength(1);
    for (const reply of conflicts) expectProblem(reply, 409, 'idempotency-key-in-flight');
  });

  it.each(['username', 'email'])('and another %s → 422', async (member) => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration);
    const { username, email } = newRegistration();
    const changed = { ...registration, [member]: { username, email }[member] };
    expectProblem(await register(key, changed), 422, 'idempotency-key-reused');
  });

  it('and another password → 422, and the right password is still answered', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    const first = await register(key, registration);
    const guess = await register(key, { ...registration, password: OTHER_PASSWORD });
    expectProblem(guess, 422, 'idempotency-key-reused');
    expect(guess.text).not.toContain(registration.email);
    expect(partsOf(await register(key, registration))).toEqual(partsOf(first));
  });

  it('and many other passwords → 429, like at a login', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration);
    const guesses: Reply[] = [];
    for (let count = 0; count < 11; count++) {
      guesses.push(
        await register(key, { ...registration, password: `${OTHER_PASSWORD} ${count}` }),
      );
    }
    expect(guesses.slice(0, 10).map(({ status }) => status)).toEqual(Array(10).fill(422));
    expectProblem(guesses[10] as Reply, 429, 'too-many-attempts');
  });

  it('→ is stored without a fast hash of the password', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration);
    const { username, email } = registration;
    const identity = canonicalize(['POST', '/v1/users', { username, email }, null]);
    const expected = createHash('sha256').update(String(identity)).digest('hex');
    expect((await rowsOf(key)).map(({ fingerprint }) => fingerprint)).toEqual([expected]);
  });

  it('→ hashes and verifies passwords outside of transactions', async () => {
    const steps: string[] = [];
    const passwords = app.app.get(PasswordsService);
    const unitOfWork = app.app.get(UnitOfWork);
    const { hashNew, verify } = passwords;
    const { run } = unitOfWork;
    jest.spyOn(passwords, 'hashNew').mockImplementation(async (...parameters) => {
      steps.push('hash');
      return hashNew.apply(passwords, parameters).finally(() => steps.push('hashed'));
    });
    jest.spyOn(passwords, 'verify').mockImplementation(async (...parameters) => {
      steps.push('verify');
      return verify.apply(passwords, parameters).finally(() => steps.push('verified')) as never;
    });
    jest.spyOn(unitOfWork, 'run').mockImplementation(async (work) => {
      steps.push('begin');
      return run.call(unitOfWork, work).finally(() => steps.push('end')) as never;
    });
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration);
    await register(key, registration);
    expect(steps).toEqual(['hash', 'hashed', 'begin', 'end', 'verify', 'verified']);
  });

  it('of another network → is another key', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration, '192.0.2.1');
    const other = await register(key, registration, '192.0.2.2');
    expectProblem(other, 409, 'username-taken');
  });

  it('of another address in the same /64 → is the same key', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration, '2001:db8::1');
    expect(isReplay(await register(key, registration, '2001:db8::2'))).toBe(true);
  });

  it('that failed → leaves the key unused', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    const tooCommon = { ...registration, password: 'passwordpassword' };
    expectProblem(await register(key, tooCommon), 400, 'validation-failed');
    expect((await register(key, registration)).status).toBe(201);
  });

  it('that is malformed → 400', async () => {
    const reply = await register('"open', newRegistration());
    expectProblem(reply, 400, 'idempotency-key-malformed');
  });

  it('older than 24 hours → is forgotten', async () => {
    const [key, registration] = [newKey(), newRegistration()];
    await register(key, registration);
    await client.query(
      `UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 s' WHERE key = $1`,
      [key],
    );
    expectProblem(await register(key, registration), 409, 'username-taken');
  });

  it.each(['the user', 'an admin'])('→ is forgotten when %s deletes the user', async (by) => {
    const [key, registration] = [newKey(), newRegistration()];
    const first = await register(key, registration);
    const ofUser = await logIn(app, registration.username);
    const token = by === 'the user' ? ofUser : await logInAsAdmin(app);
    const path = `/v1/users/${first.body.id}`;
    expect((await app.call('DELETE', path, { token })).status).toBe(204);
    expect(await rowsOf(key)).toEqual([]);
    const again = await register(key, registration);
    expect([again.status, isReplay(again)]).toEqual([201, false]);
    expect(again.body.id).not.toBe(first.body.id);
  });
});

it('a registration without a key → is not repeated', async () => {
  const app = await startApp();
  const username = uniqueUsername();
  const body = { username, email: `${username}@example.com`, password: PASSWORD };
  const first = await app.call('POST', '/v1/users', { body });
  const second = await app.call('POST', '/v1/users', { body });
  await app.close();
  expect([first.status, first.headers.get('idempotent-replayed')]).toEqual([201, null]);
  expectProblem(second, 409, 'username-taken');
});
