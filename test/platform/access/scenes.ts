/**
 * Requests for tests of access: each route as each kind of caller, on an object that belongs to the
 * owner. A scene has objects of its own when its request may change or end them.
 */
import { randomUUID } from 'node:crypto';
import type { TestApp } from '../../support/app.js';
import {
  logIn,
  logInAsAdmin,
  ORDER,
  PASSWORD,
  placeOrder,
  registerSupportUser,
  registerUser,
  type TestUser,
  uniqueUsername,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';

/** `owner` owns what the path names. The others own nothing of it. */
export const CALLERS = ['anonymous', 'owner', 'other', 'support', 'admin'] as const;
export type Caller = (typeof CALLERS)[number];

/** One request, ready to be sent. */
export interface Scene {
  readonly method: string;
  readonly path: string;
  readonly token: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** The object that the path names, as an admin or its owner sees it; empty without an object. */
  readonly readObject: () => Promise<string>;
}

/** Routes whose requests change or end a user or a session, which later scenes would need. */
const CHANGES_USER = new Set([
  'PATCH /v1/users/:id',
  'DELETE /v1/users/:id',
  'PUT /v1/users/:id/password',
  'PUT /v1/users/:id/roles',
  'DELETE /v1/sessions',
  'DELETE /v1/sessions/current',
  'DELETE /v1/sessions/:id',
]);

/** Routes that end sessions of any caller. */
const ENDS_OWN_SESSIONS = new Set(['DELETE /v1/sessions', 'DELETE /v1/sessions/current']);

/** The actions that bring an order into the status that an action needs. */
const ACTIONS_BEFORE: Readonly<Record<string, readonly string[]>> = {
  ship: ['pay'],
  deliver: ['pay', 'ship'],
  refund: ['pay', 'ship', 'deliver'],
};

const SAMPLE_PARAMETERS: Readonly<Record<string, string>> = {
  ':code': 'not-found',
  '*': 'swagger-ui.css',
};

const nothing = (): Promise<string> => Promise.resolve('');

export class AccessScenes {
  private constructor(
    private readonly app: TestApp,
    readonly owner: TestUser,
    private readonly other: TestUser,
    private readonly support: TestUser,
    private readonly adminToken: string,
  ) {}

  static async create(app: TestApp): Promise<AccessScenes> {
    const adminToken = await logInAsAdmin(app);
    const owner = await registerUser(app);
    const other = await registerUser(app);
    return new AccessScenes(app, owner, other, await registerSupportUser(app), adminToken);
  }

  tokenOf(caller: Caller): string | undefined {
    return {
      anonymous: undefined,
      owner: this.owner.token,
      other: this.other.token,
      support: this.support.token,
      admin: this.adminToken,
    }[caller];
  }

  /** A valid body of the route; undefined for a route without one. */
  bodyOf(route: string): object | undefined {
    const username = uniqueUsername();
    const bodies: Readonly<Record<string, object>> = {
      'POST /v1/users': { username, email: `${username}@example.com`, password: PASSWORD },
      'PATCH /v1/users/:id': { username },
      'PUT /v1/users/:id/password': {
        currentPassword: PASSWORD,
        newPassword: 'eight slow barges upstream',
      },
      'PUT /v1/users/:id/roles': { roles: ['user', 'support'] },
      'POST /v1/sessions': { username: this.owner.username, password: PASSWORD },
      'POST /v1/orders': ORDER,
      'PATCH /v1/orders/:id': { note: 'changed' },
    };
    return bodies[route];
  }

  async stage(route: string, caller: Caller): Promise<Scene> {
    const [method = '', path = ''] = route.split(' ');
    const owner = CHANGES_USER.has(route) ? await registerUser(this.app) : this.owner;
    const headers = {
      'Idempotency-Key': randomUUID(),
      ...(method === 'PATCH' ? { 'If-Match': '"1"' } : {}),
    };
    const token = await this.tokenFor(route, caller, owner);
    return { method, token, headers, ...(await this.stageObject(path, owner)) };
  }

  /** Sends the request of a scene, by default with a valid body. */
  send(route: string, scene: Scene, body = this.bodyOf(route)): Promise<Reply> {
    const { method, path, token, headers } = scene;
    return this.app.call(method, path, { token, headers, body });
  }

  private async tokenFor(
    route: string,
    caller: Caller,
    owner: TestUser,
  ): Promise<string | undefined> {
    if (caller === 'owner') return owner.token;
    if (caller === 'anonymous' || !ENDS_OWN_SESSIONS.has(route)) return this.tokenOf(caller);
    const { id, token } = await registerUser(this.app);
    const roles = caller === 'other' ? ['user'] : ['user', caller];
    await this.app.call('PUT', `/v1/users/${id}/roles`, {
      token: this.adminToken,
      body: { roles },
    });
    return token;
  }

  /** The path with the id of an object of `owner`, and a way to read that object. */
  private async stageObject(
    path: string,
    owner: TestUser,
  ): Promise<Pick<Scene, 'path' | 'readObject'>> {
    if (path.startsWith('/v1/orders/:id')) return this.stageOrder(path, owner);
    if (path.startsWith('/v1/sessions/:id')) return this.stageSession(path, owner);
    if (path.startsWith('/v1/users/:id')) {
      const readObject = (): Promise<string> => this.readAsAdmin(`/v1/users/${owner.id}`);
      return { path: path.replace(':id', owner.id), readObject };
    }
    const concrete = Object.entries(SAMPLE_PARAMETERS).reduce(
      (text, [parameter, value]) => text.replace(parameter, value),
      path,
    );
    return { path: concrete, readObject: nothing };
  }

  private async stageOrder(
    path: string,
    owner: TestUser,
  ): Promise<Pick<Scene, 'path' | 'readObject'>> {
    const order = await placeOrder(this.app, owner.token);
    const id = order.id as string;
    const lastSegment = path.split('/').at(-1) ?? '';
    for (const action of ACTIONS_BEFORE[lastSegment] ?? []) {
      const token = action === 'pay' ? owner.token : this.adminToken;
      await this.app.call('POST', `/v1/orders/${id}/${action}`, { token });
    }
    const readObject = (): Promise<string> => this.readAsAdmin(`/v1/orders/${id}`);
    return { path: path.replace(':id', id), readObject };
  }

  private async stageSession(
    path: string,
    owner: TestUser,
  ): Promise<Pick<Scene, 'path' | 'readObject'>> {
    const token = await logIn(this.app, owner.username);
    const { body } = await this.app.call('GET', '/v1/sessions/current', { token });
    const readObject = async (): Promise<string> =>
      String((await this.app.call('GET', '/v1/users/me', { token })).status);
    return { path: path.replace(':id', body.id as string), readObject };
  }

  private async readAsAdmin(path: string): Promise<string> {
    return (await this.app.call('GET', path, { token: this.adminToken })).text;
  }
}
