/**
 * The API of orders against the model of order.model.ts: any commands in any order, by several people, on two nodes; and some at
 * the same moment, where what they were told must be what one order of them would have told (Herlihy and Wing, 1990).
 * HOLDFAST_MODEL_RUNS and HOLDFAST_MODEL_SEED: for longer, or the same again.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { adminToken, person, supportPerson } from '../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import {
  type Change,
  type Command,
  type Expected,
  type Order,
  step,
  type Tag,
  type Who,
} from './order.model.js';

const SEED = Number(process.env.HOLDFAST_MODEL_SEED ?? Date.now() % 1_000_000);
const RUNS = Number(process.env.HOLDFAST_MODEL_RUNS ?? 8);
const PRICE = 4_999;
const PEOPLE = ['ann', 'ben', 'support', 'admin'] as const;

/** What a command says of If-Match before the order is known. */
type TagWish = 'current' | 'old' | 'coming' | '*' | 'none';
type Wish = Command extends infer C
  ? C extends { tag: Tag }
    ? Omit<C, 'tag'> & { tag: TagWish }
    : C
  : never;

const who = fc.constantFrom<Who>(...PEOPLE, 'ann', 'ann', 'admin');
const at = fc.nat(30);
const tag = fc.constantFrom<TagWish>('current', 'current', '*', 'old', 'coming', 'none');
const quantity = fc.integer({ min: 1, max: 10_000 });
const change: fc.Arbitrary<Change> = fc
  .record({ quantity, note: fc.constantFrom('a', 'b', '', null) }, { requiredKeys: [] })
  .filter((value) => Object.keys(value).length > 0);
const action = fc.constantFrom('pay', 'ship', 'deliver', 'cancel', 'refund');
const kind = <K extends Wish['kind']>(name: K): fc.Arbitrary<K> => fc.constant(name);
const patch = fc.record({ kind: kind('patch'), who, at, tag, change });
const act = fc.record({ kind: kind('act'), who, at, tag, action });
const WISHES: fc.Arbitrary<Wish>[] = [
  fc.record({ kind: kind('place'), who, quantity }),
  patch,
  act,
  act,
  act,
  fc.record({
    kind: kind('get'),
    who,
    at,
    version: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
  }),
  fc.record({ kind: kind('list'), who }),
];

/** The wish as a command for these orders. */
function resolve(wish: Wish, orders: readonly Order[]): Command {
  if (!('at' in wish)) return wish;
  const at = wish.at % Math.max(1, orders.length);
  if (!('tag' in wish)) return { ...wish, at };
  const version = orders[at]?.version ?? 1;
  const tags: Record<TagWish, Tag> = {
    current: version,
    old: version - 1,
    coming: version + 1,
    '*': '*',
    none: undefined,
  };
  return { ...wish, at, tag: tags[wish.tag] };
}

describe(`the API of orders is its model (seed ${SEED})`, () => {
  let database: TestDatabase;
  let redis: RedisServer;
  let nodes: TestApp[] = [];
  let people: Record<Who, { id: string; token: string }>;

  beforeAll(async () => {
    [database, redis] = await Promise.all([createTestDatabase(), startRedis()]);
    const env = { REDIS_URL: redis.url };
    nodes = [await startApp(env, database.url), await startApp(env, database.url)];
    const [node] = nodes as [TestApp];
    const token = await adminToken(node);
    const { id } = (await node.call('GET', '/v1/users/me', { token })).body as { id: string };
    people = {
      ann: await person(node),
      ben: await person(node),
      support: await supportPerson(node),
      admin: { id, token },
    };
  }, 60_000);
  afterAll(async () => {
    await Promise.all(nodes.map((node) => node.close()));
    await redis?.stop();
    await database?.drop();
  });

  interface Sent {
    readonly send: (node: number) => Promise<Reply>;
    readonly reply: Reply;
  }

  /** One run's orders, by number, on the service's side, and the keyed requests that were answered. */
  class Service {
    readonly ids: string[] = [];
    readonly kept: Sent[] = [];

    async run(command: Command, node: number): Promise<Reply> {
      const { token } = people[command.who];
      const id = 'at' in command ? (this.ids[command.at] ?? crypto.randomUUID()) : '';
      const call = (
        method: string,
        path: string,
        body?: object,
        headers: Record<string, string> = {},
      ) => {
        return (on: number): Promise<Reply> =>
          (nodes[on % 2] as TestApp).call(method, path, { token, body, headers });
      };
      const match = 'tag' in command && command.tag !== undefined;
      const ifMatch: Record<string, string> = match
        ? { 'If-Match': command.tag === '*' ? '*' : `"${command.tag}"` }
        : {};
      const key = { 'Idempotency-Key': crypto.randomUUID() };
      const keyed = async (send: (on: number) => Promise<Reply>): Promise<Reply> => {
        const reply = await send(node);
        if (reply.status < 300) this.kept.push({ send, reply });
        return reply;
      };
      const order = `/v1/orders/${id}`;
      switch (command.kind) {
        case 'place': {
          const reply = await keyed(
            call('POST', '/v1/orders', { currency: 'EUR', items: itemsOf(command.quantity) }, key),
          );
          this.ids.push(reply.body.id as string);
          return reply;
        }
        case 'patch': {
          const { quantity, note } = command.change;
          const body = {
            ...(quantity ? { items: itemsOf(quantity) } : {}),
            ...(note === undefined ? {} : { note }),
          };
          return call('PATCH', order, body, ifMatch)(node);
        }
        case 'act':
          return keyed(
            call('POST', `${order}/${command.action}`, { reason: 'r' }, { ...ifMatch, ...key }),
          );
        case 'get':
          return call(
            'GET',
            command.version === undefined ? order : `${order}?at=${command.version}`,
          )(node);
        case 'list':
          return call('GET', '/v1/orders?limit=100')(node);
      }
    }

    /** What differs between what was told and what should have been; nothing when all is well. */
    difference(reply: Reply, [status, order, list]: Expected): string | undefined {
      const { body } = reply;
      const told: unknown[] = [reply.status];
      const wanted: unknown[] = [status];
      if (order) {
        const { version, quantity, note, owner } = order;
        told.push(body.userId, body.status, body.version, body.items, body.total, body.note);
        wanted.push(
          people[owner].id,
          order.status,
          version,
          itemsOf(quantity),
          quantity * PRICE,
          note,
        );
      }
      if (list) {
        told.push(
          (body.data as { id: string }[])
            .map(({ id }) => this.ids.indexOf(id))
            .filter((at) => at >= 0),
        );
        wanted.push(list);
      }
      const [is, should] = [JSON.stringify(told), JSON.stringify(wanted)];
      return is === should ? undefined : `${is} and not ${should}`;
    }
  }

  class Step implements fc.AsyncCommand<{ orders: readonly Order[] }, Service> {
    constructor(
      private readonly wish: Wish,
      private readonly node: number,
      private readonly contract: typeof step,
    ) {}

    check(): boolean {
      return true;
    }

    async run(model: { orders: readonly Order[] }, service: Service): Promise<void> {
      const command = resolve(this.wish, model.orders);
      const reply = await service.run(command, this.node);
      const [orders, expected] = this.contract(model.orders, command);
      expect(service.difference(reply, expected)).toBeUndefined();
      model.orders = orders;
    }

    toString(): string {
      return `${JSON.stringify(this.wish)} on ${this.node}`;
    }
  }

  /** A request that was answered, once more, with the other node: the same bytes, whatever has become of the order since. */
  class Again implements fc.AsyncCommand<{ orders: readonly Order[] }, Service> {
    constructor(
      private readonly which: number,
      private readonly node: number,
    ) {}

    check(): boolean {
      return true;
    }

    async run(_: object, { kept }: Service): Promise<void> {
      const before = kept[this.which % Math.max(1, kept.length)];
      if (!before) return;
      const { status, text, headers } = await before.send(this.node);
      expect([status, text, headers.get('etag')]).toEqual([
        before.reply.status,
        before.reply.text,
        before.reply.headers.get('etag'),
      ]);
      expect(headers.get('idempotent-replayed')).toBe('true');
    }

    toString(): string {
      return `again ${this.which} on ${this.node}`;
    }
  }

  /** Runs of commands, one after the other, against the model or another one. */
  const inTurn = (contract: typeof step) => {
    const node = fc.nat(1);
    const steps = WISHES.map((wish) =>
      fc.tuple(wish, node).map(([it, on]) => new Step(it, on, contract)),
    );
    const again = fc.tuple(fc.nat(30), node).map(([which, on]) => new Again(which, on));
    return fc.asyncProperty(
      fc.commands([...steps, again], { maxCommands: 60, size: 'max' }),
      (commands) =>
        fc.asyncModelRun(() => ({ model: { orders: [] }, real: new Service() }), commands),
    );
  };

  it('for commands one after the other', async () => {
    await fc.assert(inTurn(step), {
      seed: SEED,
      numRuns: RUNS,
      endOnFailure: true,
      interruptAfterTimeLimit: RUNS * 2_000,
    });
  }, 600_000);

  it.each<[string, typeof step]>([
    [
      'support may pay',
      (orders, command) =>
        step(
          orders,
          command.kind === 'act' && command.who === 'support'
            ? { ...command, who: 'ann' }
            : command,
        ),
    ],
    [
      'an old ETag is taken',
      (orders, command) =>
        step(orders, command.kind === 'act' ? { ...command, tag: undefined } : command),
    ],
    [
      'lists are oldest first',
      (orders, command) => {
        const [next, [status, order, list]] = step(orders, command);
        return [next, [status, order, list?.toReversed()]];
      },
    ],
  ])(
    'and not that of a contract in which %s',
    async (_, contract) => {
      const { failed } = await fc.check(inTurn(contract), {
        seed: SEED,
        numRuns: 20,
        endOnFailure: true,
      });
      expect(failed).toBe(true);
    },
    600_000,
  );

  it('for commands at the same moment, as if one had come after the other', async () => {
    const first = fc.array(fc.oneof(patch, act), { maxLength: 4 });
    const together = fc.array(fc.oneof(patch, act), { minLength: 2, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(first, together, async (before, wishes) => {
        const service = new Service();
        let orders: readonly Order[] = [];
        for (const wish of [{ kind: 'place', who: 'ann', quantity: 2 } as const, ...before]) {
          const command = resolve(wish, orders);
          await service.run(command, 0);
          [orders] = step(orders, command);
        }
        const commands = wishes.map((wish) => resolve(wish, orders));
        const replies = await Promise.all(
          commands.map((command, index) => service.run(command, index)),
        );
        const last = await service.run({ kind: 'get', who: 'admin', at: 0, version: undefined }, 1);
        const explained = permutations(commands.keys()).some((turn) => {
          let state = orders;
          const fits = turn.every((index) => {
            const [next, expected] = step(state, commands[index] as Command);
            state = next;
            return service.difference(replies[index] as Reply, expected) === undefined;
          });
          return fits && service.difference(last, [200, state[0] as Order]) === undefined;
        });
        const told = replies.map(({ status, body }) => [status, body.version, body.status]);
        expect([explained, commands, told]).toEqual([true, commands, told]);
      }),
      { seed: SEED, numRuns: RUNS * 3, endOnFailure: true, interruptAfterTimeLimit: RUNS * 2_000 },
    );
  }, 600_000);

  it('and would not be, if a version were told that nobody made', () => {
    const service = new Service();
    const [[order]] = step([], { kind: 'place', who: 'ann', quantity: 2 });
    people ??= { ann: { id: 'ann', token: '' } } as typeof people;
    const body = {
      userId: people.ann.id,
      status: 'placed',
      version: 2,
      items: itemsOf(2),
      total: 2 * PRICE,
      note: null,
    };
    const reply = { status: 201, body, headers: new Headers(), text: '' };
    expect(service.difference(reply, [201, order as Order])).toMatch(/and not/);
    expect(
      service.difference({ ...reply, body: { ...body, version: 1 } }, [201, order as Order]),
    ).toBeUndefined();
  });
});

const itemsOf = (quantity: number): object[] => [
  { sku: 'LAMP-01', name: 'Signal lamp', quantity, unitPrice: PRICE },
];

function permutations<T>(of: Iterable<T>): T[][] {
  const items = [...of];
  if (items.length < 2) return [items];
  return items.flatMap((item, index) =>
    permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]),
  );
}
