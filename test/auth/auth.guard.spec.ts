/** The steps of the guard and their order, with a session service and a rate limit that record. */
import { describe, expect, it } from '@jest/globals';
import type { ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { AuthGuard } from '../../src/auth/auth.guard.js';
import { createToken } from '../../src/auth/sessions/token.js';
import type { Actor, Role } from '../../src/platform/access/actor.js';
import { Problem } from '../../src/platform/http/problems/problem.js';
import { Allow } from '../../src/platform/http/server/allow.decorator.js';

const USER_ID = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';
const OTHER_ID = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6b';
const TOKEN = createToken();

const actorWith = (...roles: Role[]): Actor => ({
  userId: USER_ID,
  roles,
  sessionId: 'session',
  lockSession: () => Promise.resolve(),
});

interface GuardRequest {
  readonly action?: string;
  readonly authorization?: string;
  /** The caller that the token belongs to; absent for an unknown token. */
  readonly actor?: Actor;
  readonly params?: object;
  readonly isOverLimit?: boolean;
}

interface Outcome {
  /** `true`, or the code of the problem. */
  readonly result: boolean | string;
  /** What the guard did, in order. */
  readonly steps: readonly string[];
}

async function passGuard(given: GuardRequest): Promise<Outcome> {
  const steps: string[] = [];
  const sessions = {
    isKnown: () => false,
    authenticate: (token: string) => {
      steps.push(`authenticate ${token}`);
      return Promise.resolve(given.actor);
    },
  };
  const rateLimit = {
    consume: ({ actor }: { actor?: Actor }) => {
      steps.push(`count ${actor?.userId ?? 'anonymous'}`);
      return given.isOverLimit ? Promise.reject(new Error('over limit')) : Promise.resolve();
    },
    lookUpToken: (_: unknown, __: unknown, lookUp: () => unknown) => lookUp(),
  };
  const overload = { admitCaller: () => Promise.resolve() };
  const handler = (): void => undefined;
  if (given.action !== undefined) Allow(given.action)({}, '', { value: handler });
  const { authorization, params = {} } = given;
  const config = { action: given.action };
  const pattern = '/v1/things/:id';
  const route = { method: 'GET', url: pattern, routeOptions: { url: pattern, config } };
  const request = { headers: { authorization }, params, ...route };
  const context = {
    getHandler: () => handler,
    getClass: () => class {},
    switchToHttp: () => ({ getRequest: () => request, getResponse: () => ({}) }),
  };
  const guard = new AuthGuard(
    new Reflector(),
    sessions as never,
    rateLimit as never,
    overload as never,
  );
  const result = await guard
    .identify(request as never, {} as never)
    .then(() => guard.canActivate(context as unknown as ExecutionContext))
    .catch((error: unknown) =>
      error instanceof Problem ? error.problemType.code : (error as Error).message,
    );
  return { result, steps };
}

const authorization = `Bearer ${TOKEN}`;

describe('the guard', () => {
  it('operator routes are neither authenticated nor counted', async () => {
    const outcome = await passGuard({ action: 'operator', authorization });
    expect(outcome).toEqual({ result: true, steps: [] });
  });

  it('routes for anyone are counted and not authenticated', async () => {
    const outcome = await passGuard({ action: 'anyone', authorization });
    expect(outcome).toEqual({ result: true, steps: ['count anonymous'] });
  });

  it('other routes are authenticated, then counted for the user', async () => {
    const outcome = await passGuard({ action: 'user.me', authorization, actor: actorWith('user') });
    expect(outcome).toEqual({
      result: true,
      steps: [`authenticate ${TOKEN}`, `count ${USER_ID}`],
    });
  });

  it.each([
    ['no token', undefined, []],
    ['an unknown token', authorization, [`authenticate ${TOKEN}`]],
    ['another scheme', 'Basic YTpi', []],
    ['two tokens', `${authorization} ${TOKEN}`, []],
    ['a token that is too long', `Bearer ${'a'.repeat(201)}`, []],
    ['a token without its checksum', `Bearer ${TOKEN.slice(0, -1)}`, []],
  ])('a request with %s is counted, then rejected', async (_, header, authenticated) => {
    const request = header === undefined ? {} : { authorization: header };
    const outcome = await passGuard({ action: 'user.me', ...request });
    expect(outcome).toEqual({
      result: 'unauthenticated',
      steps: [...authenticated, 'count anonymous'],
    });
  });

  it.each([
    ['no row', undefined],
    ['a row that the policy table does not have', 'user.rename'],
  ])('a route that names %s is counted and answers 404, even for an admin', async (_, action) => {
    const row = action === undefined ? {} : { action };
    const outcome = await passGuard({ ...row, authorization, actor: actorWith('admin') });
    expect(outcome.result).toBe('not-found');
    expect(outcome.steps).toEqual(['count anonymous']);
  });

  it('the limit comes before the policy', async () => {
    const actor = actorWith('user');
    const outcome = await passGuard({
      action: 'user.list',
      authorization,
      actor,
      isOverLimit: true,
    });
    expect(outcome.result).toBe('over limit');
  });

  it.each([
    ['your own user', 'user.read', USER_ID, ['user'], true],
    ['your own user, with an id in upper case', 'user.read', USER_ID.toUpperCase(), ['user'], true],
    ['another user', 'user.read', OTHER_ID, ['user'], 'not-found'],
    ['another user, as an admin', 'user.read', OTHER_ID, ['admin'], true],
    ['roles of your own user', 'user.roles', USER_ID, ['user'], 'forbidden'],
    // The service answers 403: only it knows that the admin sees the user.
    ['the password of another user, as an admin', 'user.password', OTHER_ID, ['admin'], true],
    // The service knows the owner of an order.
    ['an order', 'order.read', OTHER_ID, ['user'], true],
    ['the summary of orders', 'order.summary', undefined, ['user'], 'forbidden'],
  ] as const)('the policy decides about %s (%s)', async (_, action, id, roles, result) => {
    const actor = actorWith(...roles);
    const outcome = await passGuard({ action, authorization, actor, params: { id } });
    expect(outcome.result).toBe(result);
  });
});
