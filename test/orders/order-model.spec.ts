/**
 * The API of orders behaves like the model (order.model.ts): random commands of four users on two
 * nodes, first in sequence, then some at once. Commands at once must have responses that some
 * sequence explains (linearizability: Herlihy and Wing, 1990). HOLDFAST_MODEL_RUNS makes more runs,
 * HOLDFAST_MODEL_SEED repeats them.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { startApp, type TestApp } from '../support/app.js';
import { logInAsAdmin, registerSupportUser, registerUser } from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import {
  type Change,
  type Command,
  type Expected,
  type ModelOrder,
  step,
  type Tag,
  type UserName,
} from './order.model.js';

const SEED = Number(process.env.HOLDFAST_MODEL_SEED ?? Date.now() % 1_000_000);
const RUNS = Number(process.env.HOLDFAST_MODEL_RUNS ?? 8);
const UNIT_PRICE = 4_999;

/** A tag relative to the version that the order has when the command runs. */
type RelativeTag = 'current' | 'previous' | 'next' | '*' | 'none';
/** A command whose index and tag become concrete when it runs. */
type CommandTemplate = Command extends infer C
  ? C extends { tag: Tag }
    ? Omit<C, 'tag'> & { tag: RelativeTag }
    : C
  : never;

const anyUser = fc.constantFrom<UserName>('ann', 'ann', 'ann', 'ben', 'support', 'admin', 'admin');
const anyIndex = fc.nat(30);
const anyTag = fc.constantFrom<RelativeTag>('current', 'current', '*', 'previous', 'next', 'none');
const anyQuantity = fc.integer({ min: 1, max: 10_000 });
const anyChange: fc.Arbitrary<Change> = fc
  .record(
    { quantity: anyQuantity, note: fc.constantFrom('a', 'b', '', null) },
    { requiredKeys: [] },
  )
  .filter((change) => Object.keys(change).length > 0);
const anyVersion = fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined });
const anyAction = fc.constantFrom('pay', 'ship', 'deliver', 'cancel', 'refund');
const kind = <K extends CommandTemplate['kind']>(name: K): fc.Arbitrary<K> => fc.constant(name);

const anyPlace = fc.record({ kind: kind('place'), user: anyUser, quantity: anyQuantity });
const anyPatch = fc.record({
  kind: kind('patch'),
  user: anyUser,
  index: anyIndex,
  tag: anyTag,
  change: anyChange,
});
const anyAct = fc.record({
  kind: kind('act'),
  user: anyUser,
  index: anyIndex,
  tag: anyTag,
  action: anyAction,
});
const anyGet = fc.record({
  kind: kind('get'),
  user: anyUser,
  index: anyIndex,
  version: anyVersion,
});
const anyList = fc.record({ kind: kind('list'), user: anyUser });
/** Actions three times: they are the most likely to be rejected. */
const TEMPLATES: readonly fc.Arbitrary<CommandTemplate>[] = [
  anyPlace,
  anyPatch,
  anyAct,
  anyAct,
  anyAct,
  anyGet,
  anyList,
];

/** The template as a command for these orders. */
function resolve(template: CommandTemplate, orders: readonly ModelOrder[]): Command {
  if (!('index' in template)) return template;
  const index = template.index % Math.max(1, orders.length);
  if (!('tag' in template)) return { ...template, index };
  const version = orders[index]?.version ?? 1;
  const tags: Record<RelativeTag, Tag> = {
    current: version,
    previous: version - 1,
    next: version + 1,
    '*': '*',
    none: undefined,
  };
  return { ...template, index, tag: tags[template.tag] };
}

const itemsOf = (quantity: number): object[] => [
  { sku: 'LAMP-01', name: 'Signal lamp', quantity, unitPrice: UNIT_PRICE },
];

function permutationsOf<T>(values: readonly T[]): T[][] {
  if (values.length < 2) return [[...values]];
  return values.flatMap((value, index) =>
    permutationsOf(values.toSpliced(index, 1)).map((rest) => [value, ...rest]),
  );
}

let database: TestDatabase;
let redis: RedisServer;
let nodes: TestApp[] = [];
let users: Record<UserName, { readonly id: string; readonly token: string }>;

beforeAll(async () => {
  [database, redis] = await Promise.all([createTestDatabase(), startRedis()]);
  const env = { REDIS_URL: redis.url };
  const first = await startApp(env, database.url);
  nodes = [first, await startApp(env, database.url)];
  const token = await logInAsAdmin(first);
  const { id } = (await first.call('GET', '/v1/users/me', { token })).body as { id: string };
  users = {
    ann: await registerUser(first),
    ben: await registerUser(first),
    support: await registerSupportUser(first),
    admin: { id, token },
  };
});
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.close()));
  await redis?.stop();
  await database?.drop();
});

type Send = (nodeIndex: number) => Promise<Reply>;

/** The service in one run: it sends commands, and knows which order has which index. */
class Service {
  private readonly ids: (string | undefined)[] = [];
  /** The successful requests that had an Idempotency-Key. */
  readonly keyedSuccesses: { readonly send: Send; readonly reply: Reply }[] = [];

  async run(command: Command, nodeIndex: number): Promise<Reply> {
    const send = this.requestOf(command);
    const reply = await send(nodeIndex);
    const isKeyed = command.kind === 'place' || command.kind === 'act';
    if (isKeyed && reply.status < 300) this.keyedSuccesses.push({ send, reply });
    if (command.kind === 'place') this.ids.push(reply.body.id as string);
    return reply;
  }

  /** How a response differs from the expected one; undefined when it does not. */
  findDifference(reply: Reply, [status, order, list]: Expected): string | undefined {
    const { body } = reply;
    const actual: unknown[] = [reply.status];
    const expected: unknown[] = [status];
    if (order) {
      const { owner, version, quantity, note } = order;
      actual.push(body.userId, body.status, body.version, body.items, body.total, body.note);
      expected.push(users[owner].id, order.status, version, itemsOf(quantity));
      expected.push(quantity * UNIT_PRICE, note);
    }
    if (list) {
      const indexes = (body.data as { id: string }[]).map(({ id }) => this.ids.indexOf(id));
      // -1: an order of an earlier run.
      actual.push(indexes.filter((index) => index >= 0));
      expected.push(list);
    }
    const [actualText, expectedText] = [JSON.stringify(actual), JSON.stringify(expected)];
    return actualText === expectedText ? undefined : `${actualText}, expected ${expectedText}`;
  }

  private requestOf(command: Command): Send {
    const { token } = users[command.user];
    const request =
      (method: string, path: string, body?: object, headers: Record<string, string> = {}): Send =>
      (nodeIndex) =>
        (nodes[nodeIndex % 2] as TestApp).call(method, path, { token, body, headers });
    const key = { 'Idempotency-Key': crypto.randomUUID() };
    if (command.kind === 'list') return request('GET', '/v1/orders?limit=100');
    if (command.kind === 'place') {
      const body = { currency: 'EUR', items: itemsOf(command.quantity) };
      return request('POST', '/v1/orders', body, key);
    }
    const path = `/v1/orders/${this.ids[command.index] ?? crypto.randomUUID()}`;
    if (command.kind === 'get') {
      const { version } = command;
      return request('GET', version === undefined ? path : `${path}?at=${version}`);
    }
    if (command.kind === 'patch') {
      const { quantity, note } = command.change;
      const body = {
        ...(quantity !== undefined && { items: itemsOf(quantity) }),
        ...(note !== undefined && { note }),
      };
      return request('PATCH', path, body, ifMatch(command.tag));
    }
    const headers = { ...ifMatch(command.tag), ...key };
    return request('POST', `${path}/${command.action}`, { reason: 'r' }, headers);
  }
}

function ifMatch(tag: Tag): Record<string, string> {
  if (tag === undefined) return {};
  return { 'If-Match': tag === '*' ? '*' : `"${tag}"` };
}

interface ModelState {
  orders: readonly ModelOrder[];
}

/** Runs a command on the model and on the service, and compares. */
class RunCommand implements fc.AsyncCommand<ModelState, Service> {
  constructor(
    private readonly template: CommandTemplate,
    private readonly nodeIndex: number,
    private readonly model: typeof step,
  ) {}

  check(): boolean {
    return true;
  }

  async run(state: ModelState, service: Service): Promise<void> {
    const command = resolve(this.template, state.orders);
    const reply = await service.run(command, this.nodeIndex);
    const [orders, expected] = this.model(state.orders, command);
    expect(service.findDifference(reply, expected)).toBeUndefined();
    state.orders = orders;
  }

  toString(): string {
    return `${JSON.stringify(this.template)} on node ${this.nodeIndex}`;
  }
}

/** Repeats an earlier request with its key: the response has the same bytes, whatever happened. */
class RepeatRequest implements fc.AsyncCommand<ModelState, Service> {
  constructor(
    private readonly which: number,
    private readonly nodeIndex: number,
  ) {}

  check(): boolean {
    return true;
  }

  async run(_: ModelState, { keyedSuccesses }: Service): Promise<void> {
    const earlier = keyedSuccesses[this.which % Math.max(1, keyedSuccesses.length)];
    if (!earlier) return;
    const { status, text, headers } = await earlier.send(this.nodeIndex);
    expect([status, text, headers.get('etag'), headers.get('idempotent-replayed')]).toEqual([
      earlier.reply.status,
      earlier.reply.text,
      earlier.reply.headers.get('etag'),
      'true',
    ]);
  }

  toString(): string {
    return `repeat ${this.which} on node ${this.nodeIndex}`;
  }
}

/** Sequences of commands and repetitions, compared with `model`. */
function sequences(model: typeof step) {
  const anyNode = fc.nat(1);
  const commands = TEMPLATES.map((anyTemplate) =>
    fc.tuple(anyTemplate, anyNode).map(([template, node]) => new RunCommand(template, node, model)),
  );
  const repetitions = fc
    .tuple(fc.nat(30), anyNode)
    .map(([which, node]) => new RepeatRequest(which, node));
  return fc.asyncProperty(
    fc.commands([...commands, repetitions], { maxCommands: 60, size: 'max' }),
    (sequence) =>
      fc.asyncModelRun(() => ({ model: { orders: [] }, real: new Service() }), sequence),
  );
}

/** Whether the model gives these responses when the commands run in some sequence. */
function isExplained(
  service: Service,
  orders: readonly ModelOrder[],
  commands: readonly Command[],
  replies: readonly Reply[],
  lastRead: Reply,
): boolean {
  return permutationsOf([...commands.keys()]).some((sequence) => {
    let state = orders;
    const fits = sequence.every((index) => {
      const [next, expected] = step(state, commands[index] as Command);
      state = next;
      return service.findDifference(replies[index] as Reply, expected) === undefined;
    });
    return fits && service.findDifference(lastRead, [200, state[0]]) === undefined;
  });
}

describe(`the API of orders (seed ${SEED})`, () => {
  it('behaves like the model for commands in sequence', async () => {
    await fc.assert(sequences(step), { seed: SEED, numRuns: RUNS, endOnFailure: true });
  }, 600_000);

  it.each<[difference: string, model: typeof step]>([
    [
      'support may pay',
      (orders, command) => {
        const isOfSupport = command.kind === 'act' && command.user === 'support';
        return step(orders, isOfSupport ? { ...command, user: 'ann' } : command);
      },
    ],
    [
      'an outdated ETag is accepted',
      (orders, command) =>
        step(orders, command.kind === 'act' ? { ...command, tag: undefined } : command),
    ],
    [
      'lists begin with the oldest order',
      (orders, command) => {
        const [next, [status, order, list]] = step(orders, command);
        return [next, [status, order, list?.toReversed()]];
      },
    ],
  ])(
    'does not behave like a model in which %s',
    async (_, model) => {
      const { failed } = await fc.check(sequences(model), {
        seed: SEED,
        numRuns: 20,
        endOnFailure: true,
      });
      expect(failed).toBe(true);
    },
    600_000,
  );

  it('behaves like the model in some sequence for commands at once', async () => {
    const before = fc.array(fc.oneof(anyPatch, anyAct), { maxLength: 4 });
    const atOnce = fc.array(fc.oneof(anyPatch, anyAct), { minLength: 2, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(before, atOnce, async (earlier, templates) => {
        const service = new Service();
        let orders: readonly ModelOrder[] = [];
        const placing = { kind: 'place', user: 'ann', quantity: 2 } as const;
        for (const template of [placing, ...earlier]) {
          const command = resolve(template, orders);
          await service.run(command, 0);
          [orders] = step(orders, command);
        }
        const commands = templates.map((template) => resolve(template, orders));
        const replies = await Promise.all(
          commands.map((command, index) => service.run(command, index)),
        );
        const get = { kind: 'get', user: 'admin', index: 0, version: undefined } as const;
        const lastRead = await service.run(get, 1);
        const responses = replies.map(({ status, body }) => [status, body.version, body.status]);
        expect({
          isExplained: isExplained(service, orders, commands, replies, lastRead),
          commands,
          responses,
        }).toEqual({ isExplained: true, commands, responses });
      }),
      { seed: SEED, numRuns: RUNS * 3, endOnFailure: true },
    );
  }, 600_000);
});

describe('the comparison with the model', () => {
  const reply = (version: number): Reply => ({
    status: 201,
    body: {
      userId: users.ann.id,
      status: 'placed',
      version,
      items: itemsOf(2),
      total: 2 * UNIT_PRICE,
      note: null,
    },
    headers: new Headers(),
    text: '',
  });
  const placed = (): Expected => step([], { kind: 'place', user: 'ann', quantity: 2 })[1];

  it('accepts the response that the model expects', () => {
    expect(new Service().findDifference(reply(1), placed())).toBeUndefined();
  });

  it('finds a version that no command made', () => {
    expect(new Service().findDifference(reply(2), placed())).toMatch(/, expected \[201,/);
  });
});
