/** Who sees and sets which field, over HTTP: the table FIELDS of policy.ts against the service. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { FIELDS, type Party } from '../../../src/platform/access/policy.js';
import { startApp, type TestApp } from '../../support/app.js';
import { ORDER, PASSWORD, placeOrder, uniqueUsername } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { validationErrorsOf } from '../../support/problem.js';
import { AccessScenes } from './scenes.js';

type Kind = keyof typeof FIELDS;

const PARTIES: readonly Party[] = ['owner', 'support', 'admin'];

const fieldsSeenBy = (kind: Kind, party: Party): string[] =>
  Object.entries(FIELDS[kind])
    .filter(([, { see }]) => see.includes(party))
    .map(([name]) => name)
    .sort();

/** All pairs of an element of each list, as rows for `it.each`. */
const pairs = <A, B>(first: readonly A[], second: readonly B[]): (readonly [A, B])[] =>
  first.flatMap((a) => second.map((b) => [a, b] as const));

describe('fields', () => {
  let app: TestApp;
  let scenes: AccessScenes;
  let orderId: string;

  beforeAll(async () => {
    app = await startApp();
    scenes = await AccessScenes.create(app);
    orderId = (await placeOrder(app, scenes.owner.token)).id as string;
  });
  afterAll(() => app.close());

  /** The names of the object in a response, or of the first one in a list. */
  function namesIn({ status, body }: Reply): string[] {
    if (status >= 400) return [];
    const object = (body.data ? body.data[0] : body) as object | undefined;
    return Object.keys(object ?? {}).sort();
  }

  describe('that a response holds are those that the table lets the caller see', () => {
    const PLACES = [
      ['user', '/v1/users/{userId}'],
      ['order', '/v1/orders/{orderId}'],
      ['order', '/v1/orders?ids={orderId}'],
      ['order', '/v1/users/{userId}/orders?limit=1'],
    ] as const;

    const get = (path: string, party: Party): Promise<Reply> => {
      const concrete = path
        .replace('{userId}', scenes.owner.id)
        .replace('{orderId}', orderId)
        .replace('{username}', scenes.owner.username);
      return app.call('GET', concrete, { token: scenes.tokenOf(party) });
    };

    it.each(pairs(PLACES, PARTIES))('%j for %s', async ([kind, path], party) => {
      expect(namesIn(await get(path, party))).toEqual(fieldsSeenBy(kind, party));
    });

    it('a user in the list of users, which is for admins only', async () => {
      const path = '/v1/users?username={username}';
      expect(namesIn(await get(path, 'admin'))).toEqual(fieldsSeenBy('user', 'admin'));
      expect(namesIn(await get(path, 'owner'))).toEqual([]);
      expect(namesIn(await get(path, 'support'))).toEqual([]);
    });

    it.each(['/v1/sessions', '/v1/sessions/current'])('a session in %s', async (path) => {
      expect(namesIn(await get(path, 'owner'))).toEqual(fieldsSeenBy('session', 'owner'));
    });

    it('a session in the response to its login, which alone holds the token', async () => {
      const body = { username: scenes.owner.username, password: PASSWORD };
      const reply = await app.call('POST', '/v1/sessions', { body });
      const expected = [...fieldsSeenBy('session', 'owner'), 'token'].sort();
      expect(namesIn(reply)).toEqual(expected);
    });
  });

  describe('that a request may hold', () => {
    /** A route that writes: fields of its object that it accepts, and further members. */
    interface Writer {
      readonly route: string;
      readonly kind: Kind;
      readonly fields: readonly string[];
      readonly members?: readonly string[];
    }
    const WRITERS: readonly Writer[] = [
      { route: 'POST /v1/users', kind: 'user', fields: ['username', 'email', 'password'] },
      { route: 'PATCH /v1/users/:id', kind: 'user', fields: ['username', 'email'] },
      { route: 'PUT /v1/users/:id/roles', kind: 'user', fields: ['roles'] },
      {
        route: 'PUT /v1/users/:id/password',
        kind: 'user',
        fields: [],
        members: ['currentPassword', 'newPassword'],
      },
      {
        route: 'POST /v1/sessions',
        kind: 'session',
        fields: [],
        members: ['username', 'password'],
      },
      { route: 'POST /v1/orders', kind: 'order', fields: ['currency', 'items', 'note'] },
      { route: 'PATCH /v1/orders/:id', kind: 'order', fields: ['items', 'note'] },
      { route: 'POST /v1/orders/:id/pay', kind: 'order', fields: [], members: ['reason'] },
    ];
    /** Every field of every object, and names that no object has. */
    const ALL_NAMES = [
      ...new Set(Object.values(FIELDS).flatMap((fields) => Object.keys(fields))),
      '__proto__x',
      'isAdmin',
    ];

    it.each(WRITERS)('$route accepts only fields that the table lets somebody set', (writer) => {
      const settable = Object.entries(FIELDS[writer.kind])
        .filter(([, { set }]) => set !== undefined)
        .map(([name]) => name);
      expect(writer.fields.filter((name) => !settable.includes(name))).toEqual([]);
    });

    const CALLS = pairs(WRITERS, ['owner', 'admin'] as const)
      // The guard rejects these two calls before the body is validated.
      .filter(([{ route }, caller]) => route !== 'PUT /v1/users/:id/roles' || caller === 'admin')
      .map(([writer, caller]) => ({ ...writer, caller }));

    it.each(CALLS)(
      '$route by $caller rejects every other field by name',
      async ({ route, caller, fields, members = [] }) => {
        const scene = await scenes.stage(route, caller);
        const body = Object.fromEntries(ALL_NAMES.map((name) => [name, 1]));
        const rejected = validationErrorsOf(await scenes.send(route, scene, body))
          .map((error) => /^\/(\S+) unknown-property$/.exec(error)?.[1])
          .filter((name) => name !== undefined);
        const known = [...fields, ...members];
        const expected = ALL_NAMES.filter((name) => !known.includes(name));
        expect(rejected.sort()).toEqual(expected.sort());
      },
    );

    /** How an existing object's field is set. */
    interface Setter {
      readonly kind: Kind;
      readonly field: string;
      readonly route: string;
      readonly body: () => object;
    }
    const SETTERS: readonly Setter[] = [
      {
        kind: 'user',
        field: 'username',
        route: 'PATCH /v1/users/:id',
        body: () => ({ username: uniqueUsername() }),
      },
      {
        kind: 'user',
        field: 'email',
        route: 'PATCH /v1/users/:id',
        body: () => ({ email: `${uniqueUsername()}@example.com` }),
      },
      {
        kind: 'user',
        field: 'roles',
        route: 'PUT /v1/users/:id/roles',
        body: () => ({ roles: ['user', 'admin'] }),
      },
      {
        kind: 'user',
        field: 'password',
        route: 'PUT /v1/users/:id/password',
        body: () => ({ currentPassword: PASSWORD, newPassword: 'eight slow barges upstream' }),
      },
      {
        kind: 'order',
        field: 'items',
        route: 'PATCH /v1/orders/:id',
        body: () => ({ items: ORDER.items }),
      },
      {
        kind: 'order',
        field: 'note',
        route: 'PATCH /v1/orders/:id',
        body: () => ({ note: 'another' }),
      },
    ];

    it.each(SETTERS)('$kind.$field is set by those whom the table names', async (setter) => {
      const { kind, field, route, body } = setter;
      const canSet: Party[] = [];
      for (const party of PARTIES) {
        const scene = await scenes.stage(route, party);
        const { status } = await scenes.send(route, scene, body());
        if (status < 300) canSet.push(party);
      }
      expect(canSet).toEqual(FIELDS[kind][field]?.set?.by);
    });

    it('every field that the table lets somebody set is tested here', () => {
      const settable = Object.entries(FIELDS).flatMap(([kind, fields]) =>
        Object.entries(fields)
          .filter(([, { set }]) => set !== undefined)
          .map(([name]) => `${kind}.${name}`),
      );
      // Set once, when the order is placed: the test of accepted fields covers it.
      const tested = [...SETTERS.map(({ kind, field }) => `${kind}.${field}`), 'order.currency'];
      expect(tested.sort()).toEqual(settable.sort());
    });
  });
});
