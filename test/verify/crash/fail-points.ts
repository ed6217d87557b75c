/**
 * Loaded before the service (`node --import`). Wraps the driver, the cache's protocol, the relay
 * and the HTTP response. So the process can kill itself with SIGKILL at any step of a write on
 * orders or of the relay, or break one guard. The code in src/ does not know of it.
 */
import 'reflect-metadata';
import { AsyncLocalStorage } from 'node:async_hooks';
import http from 'node:http';
import pg from 'pg';
import { Invalidation } from '../../../src/platform/cache/write/invalidation.js';
import { OutboxBroker } from '../../../src/platform/outbox/outbox-broker.js';
import { OutboxPartitions } from '../../../src/platform/outbox/outbox-partitions.js';
import type { Command, Defect, Step } from './steps.js';

type Method = (...args: unknown[]) => unknown;

/** Method and path of the write on orders that the current asynchronous context belongs to. */
const currentWrite = new AsyncLocalStorage<string>();
let death: { readonly step: Step; passesLeft: number } | undefined;
let defect: Defect | undefined;

process.on('message', (command: Command) => {
  if (command.kind === 'die') death = { step: command.step, passesLeft: command.passes };
  else defect = command.defect;
});
process.on('disconnect', () => process.exit(0));

function die(): void {
  process.kill(process.pid, 'SIGKILL');
}

/** Counts the pass. @returns whether this process is to die at it */
function isDeathAt(step: Step): boolean {
  if (death?.step !== step) return false;
  death.passesLeft--;
  return death.passesLeft < 0;
}

const isDeathInWriteAt = (step: Step): boolean =>
  currentWrite.getStore() !== undefined && isDeathAt(step);

function passInWrite(step: Step): void {
  if (isDeathInWriteAt(step)) die();
}

function passInRelay(step: Step): void {
  if (isDeathAt(step)) die();
}

/**
 * Replaces a method.
 * @param around gets the original method, bound to the object that it was called on
 */
function wrap<T extends object>(
  prototype: T,
  name: keyof T & string,
  around: (original: Method, self: T, args: unknown[]) => unknown,
): void {
  const original = prototype[name] as Method;
  Object.defineProperty(prototype, name, {
    configurable: true,
    writable: true,
    value: function (this: T, ...args: unknown[]) {
      return around((...passed) => original.apply(this, passed), this, args);
    },
  });
}

/** The step that a write has passed once the statement was answered. */
const STEP_OF_STATEMENT: readonly (readonly [RegExp, Step])[] = [
  [/^START TRANSACTION/, 'transaction begun'],
  [/pg_try_advisory_xact_lock/, 'key claimed'],
  [/^\s*(INSERT INTO|UPDATE) "?orders"?\b/, 'order written'],
  [/^\s*INSERT INTO "?order_events"?\b/, 'event written'],
  [/^\s*INSERT INTO "?outbox"?\b/, 'outbox written'],
  [/^\s*INSERT INTO "?idempotency_keys"?\b/, 'key written'],
  [/^COMMIT/, 'committed'],
];

/** With 'the key is committed after the order': the postponed INSERT, by connection. */
const postponedInserts = new WeakMap<object, unknown[]>();

function sqlOf([query]: unknown[]): string {
  if (typeof query === 'string') return query;
  return (query as { text?: string } | null)?.text ?? '';
}

/** What PostgreSQL would have answered to the INSERT of a key. */
const insertedKey = (): object => ({
  command: 'INSERT',
  rowCount: 1,
  rows: [{ created_at: new Date() }],
  fields: [],
});

wrap(pg.Client.prototype, 'query', (query, client, args) => {
  const write = currentWrite.getStore();
  const step = STEP_OF_STATEMENT.find(([pattern]) => pattern.test(sqlOf(args)))?.[1];
  if (write === undefined || step === undefined) return query(...args);

  if (step === 'transaction begun') passInWrite('before the transaction');
  if (step === 'key claimed' && defect === 'the key is not locked') {
    return query('SELECT true AS locked');
  }
  const commitsKeyLate = defect === 'the key is committed after the order';
  if (step === 'key written' && commitsKeyLate && write === 'POST /v1/orders') {
    postponedInserts.set(client, args);
    return Promise.resolve(insertedKey());
  }
  const answer = query(...args) as Promise<unknown>;
  if (step !== 'committed') {
    return answer.then((result) => {
      passInWrite(step);
      return result;
    });
  }
  setImmediate(() => passInWrite('commit sent'));
  return answer.then((result) => afterCommit(query, client, result));
});

async function afterCommit(query: Method, client: object, result: unknown): Promise<unknown> {
  const postponed = postponedInserts.get(client);
  // With the defect, only the death of a write whose key is postponed shows anything.
  const isOrdinary = defect !== 'the key is committed after the order';
  if (isOrdinary || postponed) passInWrite('committed');
  if (postponed) {
    postponedInserts.delete(client);
    await query(...postponed);
  }
  return result;
}

wrap(Invalidation.prototype, 'awaitFences', async (awaitFences) => {
  const areFenced = await awaitFences();
  passInWrite('keys fenced');
  return areFenced;
});

wrap(Invalidation.prototype, 'publish', async (publish) => {
  const published = publish() as Promise<void>;
  setImmediate(() => passInWrite('invalidation sent'));
  await published;
  passInWrite('invalidation published');
});

wrap(OutboxBroker.prototype, 'publish', async (publish, _broker, args) => {
  const confirmed = publish(...args) as Promise<void>;
  setImmediate(() => passInRelay('event sent'));
  await confirmed;
  passInRelay('event confirmed');
});

wrap(OutboxPartitions.prototype, 'settle', async (settle, _partitions, args) => {
  await settle(...args);
  passInRelay('events settled');
});

wrap(http.Server.prototype, 'emit', (emit, _server, args) => {
  const [event, request] = args as [string, http.IncomingMessage];
  const isWriteOnOrders =
    event === 'request' && request.method !== 'GET' && /^\/v1\/orders\b/.test(request.url ?? '');
  if (!isWriteOnOrders) return emit(...args);
  return currentWrite.run(`${request.method} ${request.url}`, () => emit(...args));
});

wrap(http.ServerResponse.prototype, 'end', (end, response, args) => {
  const [body] = args;
  passInWrite('before the response');
  if (typeof body === 'string' && isDeathInWriteAt('half of the response sent')) {
    return response.write(body.slice(0, body.length / 2), die);
  }
  if (isDeathInWriteAt('response sent')) response.once('finish', () => setImmediate(die));
  return end(...args);
});
