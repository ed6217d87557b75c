/**
 * Loaded before the service (`node --import`): wraps the driver, the cache's protocol, the HTTP answer and the relay, so that the
 * process kills itself with SIGKILL at a step of a write on orders or of the relay, or breaks a guard. src/ knows nothing of it.
 */
import 'reflect-metadata';
import { AsyncLocalStorage } from 'node:async_hooks';
import http from 'node:http';
import pg from 'pg';
import { Invalidation } from '../../../src/cache/invalidation.service.js';
import { Broker } from '../../../src/outbox/outbox.broker.js';
import { OutboxLanes } from '../../../src/outbox/outbox.lanes.js';
import type { Breakage, Command, Step } from './steps.js';

type Method = (this: unknown, ...args: unknown[]) => unknown;

/** Method and path while a write on orders is under way, in its asynchronous context. */
const write = new AsyncLocalStorage<string>();
let death: { readonly step: Step; passes: number } | undefined;
let broken: Breakage | undefined;

const die = (): void => void process.kill(process.pid, 'SIGKILL');
const isDue = (step: Step): boolean => death?.step === step && --death.passes < 0;
const isNow = (step: Step): boolean => write.getStore() !== undefined && isDue(step);
const pass = (step: Step): void => {
  if (isNow(step)) die();
};
const passRelay = (step: Step): void => {
  if (isDue(step)) die();
};

/** Puts `around` in the place of a method; it gets the method as it was, bound. */
function wrap(
  prototype: object,
  name: string,
  around: (original: Method, self: unknown, args: unknown[]) => unknown,
) {
  const original = (prototype as Record<string, Method>)[name] as Method;
  Object.defineProperty(prototype, name, {
    configurable: true,
    writable: true,
    value: function (this: unknown, ...args: unknown[]) {
      return around((...given) => original.apply(this, given), this, args);
    },
  });
}

/** What a statement is a step of, once it was answered. */
const STATEMENTS: readonly (readonly [RegExp, Step])[] = [
  [/^START TRANSACTION/, 'begun'],
  [/pg_try_advisory_xact_lock/, 'key claimed'],
  [/^\s*(INSERT INTO|UPDATE) "?orders"?\b/, 'order written'],
  [/^\s*INSERT INTO "?order_events"?\b/, 'event written'],
  [/^\s*INSERT INTO "?outbox"?\b/, 'outbox written'],
  [/^\s*INSERT INTO "?idempotency_keys"?\b/, 'key written'],
  [/^COMMIT/, 'committed'],
];

/** The statement that keeps a key, held back until its order is committed. */
const heldBack = new WeakMap<object, unknown[]>();

wrap(pg.Client.prototype, 'query', (query, self, args) => {
  const [first] = args;
  const sql = typeof first === 'string' ? first : ((first as { text?: string } | null)?.text ?? '');
  if (write.getStore() === undefined) return query(...args);
  const step = STATEMENTS.find(([pattern]) => pattern.test(sql))?.[1];
  if (step === 'begun') pass('before the transaction');
  const late = broken === 'the key is committed after the order';
  if (step === 'key written' && late && write.getStore() === 'POST /v1/orders') {
    heldBack.set(self as object, args);
    return Promise.resolve({
      command: 'INSERT',
      rowCount: 1,
      rows: [{ created_at: new Date() }],
      fields: [],
    });
  }
  if (step === 'key claimed' && broken === 'the key is not locked')
    return query('SELECT true AS locked');
  if (step === undefined) return query(...args);
  const answered = query(...args) as Promise<unknown>;
  if (step === 'committed') setImmediate(() => pass('commit sent'));
  return answered.then(async (answer) => {
    const kept = step === 'committed' ? heldBack.get(self as object) : undefined;
    // A death at another write would show nothing of the key that comes late.
    if (!late || step !== 'committed' || kept) pass(step);
    if (kept) await query(...kept);
    heldBack.delete(self as object);
    return answer;
  });
});

wrap(Invalidation.prototype, 'settled', async (settled) => {
  const fenced = await (settled() as Promise<boolean>);
  pass('fenced');
  return fenced;
});
wrap(Invalidation.prototype, 'publish', async (publish) => {
  const done = publish() as Promise<void>;
  setImmediate(() => pass('publish sent'));
  await done;
  pass('published');
});

wrap(Broker.prototype, 'publish', async (publish, _, args) => {
  const confirmed = publish(...args) as Promise<void>;
  setImmediate(() => passRelay('event sent'));
  await confirmed;
  passRelay('event confirmed');
});
wrap(OutboxLanes.prototype, 'settle', async (settle, _, args) => {
  await settle(...args);
  passRelay('events marked');
});

wrap(http.Server.prototype, 'emit', (emit, _, args) => {
  const [event, request] = args as [string, http.IncomingMessage];
  const isWrite =
    event === 'request' && request.method !== 'GET' && /^\/v1\/orders\b/.test(request.url ?? '');
  return isWrite
    ? write.run(`${request.method} ${request.url}`, () => emit(...args))
    : emit(...args);
});
wrap(http.ServerResponse.prototype, 'end', (end, self, args) => {
  const [body] = args;
  pass('before the answer');
  if (typeof body === 'string' && isNow('half an answer')) {
    const response = self as http.ServerResponse;
    return response.write(body.slice(0, body.length / 2), die);
  }
  if (isNow('answered')) (self as http.ServerResponse).once('finish', () => setImmediate(die));
  return end(...args);
});

process.on('message', (command: Command) => {
  if (command.kind === 'die') death = { ...command };
  else broken = command.breakage;
});
process.on('disconnect', () => process.exit(0));
