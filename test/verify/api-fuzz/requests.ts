/**
 * Valid requests for each operation of the OpenAPI document, as arbitraries of fast-check. An
 * arbitrary gives a function of the world: what the world has is chosen when the request is sent.
 */
import fc, { type Arbitrary } from 'fast-check';
import type { DocumentedApi, Operation, Parameter } from '../../support/documented-api.js';
import type { SchemaValues } from './values.js';
import {
  type Account,
  type Caller,
  type CallerRole,
  forwardedFor,
  type KnownOrder,
  type World,
} from './world.js';

/** A request that defects may change before it is sent. */
export interface Draft {
  method: string;
  path: string;
  /** Each `name=value`, encoded. */
  query: string[];
  headers: Record<string, string | string[]>;
  body: Buffer | undefined;
}

export interface Prepared {
  readonly draft: Draft;
  /** Undefined when the operation needs no session. */
  readonly caller: Caller | undefined;
  /** The owner of the object in the path; undefined when it does not exist or has none. */
  readonly owner: Caller | undefined;
  /** The id in the path. */
  readonly objectId: string | undefined;
  /** The value of the body. */
  readonly json: unknown;
  /** A correct login of this account. */
  readonly account: Account | undefined;
}

export type Prepare = (world: World) => Prepared;

const SUMMARY_DAYS = 366;
const MAX_TOTAL = Number.MAX_SAFE_INTEGER;
const DAY_MS = 86_400_000;

export const isSecured = ({ security }: Operation): boolean => security.length > 0;
export const hasBody = ({ requestBody }: Operation): boolean => requestBody !== undefined;
export const isOfApi = ({ path }: Operation): boolean => path.startsWith('/v1/');
export const headerOf = ({ parameters }: Operation, wanted: string): Parameter | undefined =>
  parameters.find(({ name, in: place }) => place === 'header' && name === wanted);
export const queryOf = ({ parameters }: Operation): Parameter[] =>
  parameters.filter(({ in: place }) => place === 'query');

export const encodePair = (name: string, value: string): string =>
  `${name}=${encodeURIComponent(value)}`;

const bodyOf = ({ requestBody }: Operation) => requestBody?.content['application/json'];

/** Numbers that choose among what the world has. */
interface Choices {
  readonly role: CallerRole;
  readonly caller: number;
  readonly object: number;
  readonly whose: 'own' | 'any' | 'deleted' | 'unknown';
  readonly unknownId: string;
  readonly entityTag: 'current' | 'any' | 'list' | 'old' | 'none';
  readonly idempotencyKey: string;
  readonly isCorrect: boolean;
  readonly usesCursor: boolean;
}

const choices = (operation: Operation): Arbitrary<Choices> =>
  fc.record({
    role: fc.constantFrom('user', 'user', 'user', 'support', 'admin', 'admin'),
    caller: fc.nat(),
    object: fc.nat(),
    whose: fc.constantFrom('own', 'own', 'own', 'own', 'own', 'own', 'any', 'deleted', 'unknown'),
    unknownId: fc.uuid(),
    entityTag: headerOf(operation, 'If-Match')?.required
      ? fc.constantFrom('current', 'current', 'current', 'any', 'list', 'old')
      : fc.constantFrom('none', 'none', 'current', 'any', 'old'),
    idempotencyKey: fc.uuid(),
    isCorrect: fc.constantFrom(true, true, true, false),
    usesCursor: fc.constantFrom(true, false, false),
  });

export class ValidRequests {
  constructor(
    private readonly api: DocumentedApi,
    private readonly values: SchemaValues,
  ) {}

  /** Requests that the document allows, from callers with a live session. */
  of(operation: Operation): Arbitrary<Prepare> {
    const json = bodyOf(operation) ? this.bodies(operation) : fc.constant(undefined);
    return fc
      .record({ chosen: choices(operation), query: this.queries(operation), json })
      .map(({ chosen, query, json: body }) => {
        return (world: World) => prepare(operation, world, chosen, query, body);
      });
  }

  private bodies(operation: Operation): Arbitrary<unknown> {
    const schema = bodyOf(operation)?.schema ?? {};
    return this.values
      .valid(schema)
      .map(limitTotal)
      .filter((body) => this.api.isValidBody(operation, body));
  }

  private queries(operation: Operation): Arbitrary<Record<string, unknown>> {
    if (operation.operationId === 'summarizeOrders') return periods;
    const parameters = queryOf(operation).map((parameter) => {
      const ofSchema = this.values.valid(parameter.schema);
      const { name } = parameter;
      return [name, name === 'at' ? fc.constantFrom('1', '2', '9007', TIME_AFTER) : ofSchema];
    });
    const record = Object.fromEntries(parameters) as Record<string, Arbitrary<unknown>>;
    return fc.record(record, { requiredKeys: [] }).map((query) => ({ ...query }));
  }
}

const TIME_AFTER = '2999-01-31T09:30:00.000Z';

/** The two days are at most a year apart. The schema cannot say so. */
const periods: Arbitrary<Record<string, unknown>> = fc
  .record({
    from: fc.date({
      min: new Date('0001-01-01'),
      max: new Date('9990-01-01'),
      noInvalidDate: true,
    }),
    days: fc.nat({ max: SUMMARY_DAYS - 1 }),
    isGiven: fc.boolean(),
  })
  .map(({ from, days, isGiven }) => {
    const to = new Date(from.getTime() + days * DAY_MS);
    const day = (date: Date): string => date.toISOString().slice(0, 10);
    return isGiven ? { from: day(from), to: day(to) } : {};
  });

/** The total of an order is a safe integer. The schema cannot say so. */
function limitTotal(body: unknown): unknown {
  const { items } = (body ?? {}) as { items?: { quantity: number; unitPrice: number }[] };
  if (!Array.isArray(items)) return body;
  const total = items.reduce((sum, { quantity, unitPrice }) => sum + quantity * unitPrice, 0);
  if (total <= MAX_TOTAL) return body;
  const cheaper = items.map((item) => ({ ...item, unitPrice: item.unitPrice % 1_000_000 }));
  return { ...(body as object), items: cheaper };
}

function prepare(
  operation: Operation,
  world: World,
  chosen: Choices,
  query: Readonly<Record<string, unknown>>,
  body: unknown,
): Prepared {
  const caller = isSecured(operation) ? chooseCaller(world, chosen) : undefined;
  const cursor = world.cursors.get(operation.operationId);
  if (cursor && chosen.usesCursor) {
    const pairs = [...cursor.query, encodePair('cursor', cursor.value)];
    const draft = { ...emptyDraft(operation, cursor.path), query: pairs };
    authorize(draft, cursor.caller);
    return { ...NOTHING, draft, caller: cursor.caller };
  }
  const { id, owner, version } = chooseObject(operation, world, chosen, caller);
  const draft = emptyDraft(operation, operation.path.replace('{id}', id ?? ''));
  draft.query = pairsOf(operation, world, chosen, query);
  if (caller) authorize(draft, caller);
  setHeaders(draft, operation, chosen, version);
  const { json, account } = completeBody(operation, world, chosen, body, caller);
  if (json !== undefined) setJson(draft, json);
  if (operation.operationId === 'logIn') Object.assign(draft.headers, forwardedFor());
  return { draft, caller, owner, objectId: id, json, account };
}

const NOTHING = { owner: undefined, objectId: undefined, json: undefined, account: undefined };

const emptyDraft = ({ method }: Operation, path: string): Draft => ({
  method,
  path,
  query: [],
  headers: {},
  body: undefined,
});

export function authorize(draft: Draft, { session }: Caller): void {
  draft.headers.Authorization = `Bearer ${session.token}`;
}

export function setJson(draft: Draft, value: unknown): void {
  draft.body = Buffer.from(JSON.stringify(value));
  draft.headers['Content-Type'] = 'application/json';
}

const pick = <T>(list: readonly T[], choice: number): T | undefined => list[choice % list.length];

function chooseCaller(world: World, { role, caller }: Choices): Caller {
  return pick(world.callersOf(role), caller) as Caller;
}

interface ChosenObject {
  readonly id?: string | undefined;
  readonly owner?: Caller | undefined;
  readonly version?: number | undefined;
}

function chooseObject(
  { path }: Operation,
  world: World,
  { whose, object, unknownId }: Choices,
  caller: Caller | undefined,
): ChosenObject {
  if (!path.includes('{id}')) return {};
  if (whose === 'unknown') return { id: unknownId };
  const [, , collection] = path.split('/');
  if (collection === 'users') {
    if (whose === 'deleted') return { id: pick(world.deletedUsers, object) ?? unknownId };
    const user = whose === 'own' ? caller : pick(world.callers, object);
    return { id: user?.id, owner: user, version: user?.version };
  }
  if (collection === 'sessions') {
    if (whose === 'deleted') return { id: pick(world.deletedSessions, object) ?? unknownId };
    const owner = (whose === 'own' ? caller : pick(world.callers, object)) as Caller;
    return { id: pick([...owner.others, owner.session], object)?.id, owner };
  }
  const own = world.orders.filter((order) => order.owner === caller);
  const order: KnownOrder | undefined = pick(own, object) ?? pick(world.orders, object);
  return { id: order?.id ?? unknownId, owner: order?.owner, version: order?.version };
}

function pairsOf(
  { operationId }: Operation,
  world: World,
  { object, whose }: Choices,
  query: Readonly<Record<string, unknown>>,
): string[] {
  const { ids, ...others } = query as Record<string, unknown>;
  delete others.cursor;
  const isById = operationId === 'listOrders' && Array.isArray(ids);
  if (isById) {
    const known = world.orders.slice(0, 1 + (object % 5)).map(({ id }) => id);
    return [`ids=${[...new Set([...(ids as string[]), ...known])].slice(0, 100).join(',')}`];
  }
  const someUser = pick(world.callers, object)?.id;
  const userId = whose === 'own' ? someUser : others.userId;
  return Object.entries(others).map(([name, value]) =>
    encodePair(name, String(name === 'userId' ? userId : value)),
  );
}

function setHeaders(
  draft: Draft,
  operation: Operation,
  { entityTag, idempotencyKey, isCorrect, object }: Choices,
  version: number | undefined,
): void {
  const current = `"${version ?? 1}"`;
  if (headerOf(operation, 'If-Match') && entityTag !== 'none') {
    const tags = { current, any: '*', list: `"x", ${current}`, old: '"0"' };
    draft.headers['If-Match'] = tags[entityTag];
  }
  if (headerOf(operation, 'If-None-Match') && entityTag !== 'none') {
    draft.headers['If-None-Match'] = entityTag === 'old' ? '"0"' : current;
  }
  const key = headerOf(operation, 'Idempotency-Key');
  if (key?.required || (key && isCorrect)) draft.headers['Idempotency-Key'] = idempotencyKey;
  const asksForPrimary = headerOf(operation, 'Cache-Control') && object % 4 === 0;
  if (asksForPrimary) draft.headers['Cache-Control'] = 'no-cache';
}

/** Bodies that depend on what the world has. */
function completeBody(
  { operationId }: Operation,
  world: World,
  { isCorrect, object }: Choices,
  body: unknown,
  caller: Caller | undefined,
): { readonly json: unknown; readonly account: Account | undefined } {
  if (operationId === 'logIn' && isCorrect) {
    const account = pick([...world.callers, ...world.accounts], object) as Account;
    const { username, password } = account;
    return { json: { username, password }, account };
  }
  if (operationId === 'changePassword' && isCorrect && caller) {
    const json = { ...(body as object), currentPassword: caller.password };
    return { json, account: undefined };
  }
  return { json: body, account: undefined };
}
