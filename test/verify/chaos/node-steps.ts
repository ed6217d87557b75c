/**
 * Lets a node die by SIGKILL at a given step of a write, and notes how each write was invalidated.
 * It wraps methods of the real classes, so that src/ needs no hook for it. Import it before the
 * service's modules are instantiated.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import pg from 'pg';
import { GuardedStore } from '../../../src/platform/cache/store/guarded-store.js';
import { DatabaseInvalidations } from '../../../src/platform/cache/write/database-invalidations.js';
import { Invalidation } from '../../../src/platform/cache/write/invalidation.js';
import type { Invalidated } from './history.js';
import type { Step } from './node-messages.js';

/** The write of this asynchronous context. */
interface CurrentWrite {
  invalidated: Invalidated;
}

const currentWrite = new AsyncLocalStorage<CurrentWrite>();
let deadlyStep: Step | undefined;

/** The next write that reaches this step kills the process; undefined: none does. */
export function dieAt(step: Step | undefined): void {
  deadlyStep = step;
}

let rest: () => Promise<void> = () => Promise.resolve();

/** From now on each write does this between its fences and its COMMIT. */
export function restBeforeCommit(newRest: () => Promise<void>): void {
  rest = newRest;
}

/** To be called by a write that has reached this step. */
export function reach(step: Step): void {
  if (deadlyStep === step && currentWrite.getStore()) process.kill(process.pid, 'SIGKILL');
}

/**
 * Runs one write.
 * @param write gets the record of how it was invalidated, which is complete when the write ends
 */
export function trackWrite<T>(write: (tracked: Readonly<CurrentWrite>) => Promise<T>): Promise<T> {
  const tracked: CurrentWrite = { invalidated: 'fenced' };
  return currentWrite.run(tracked, () => write(tracked));
}

type Method = (...args: unknown[]) => unknown;

/** Replaces a method. `around` gets a function that calls the original, and the arguments. */
function wrapMethod<T extends object>(
  prototype: T,
  name: keyof T & string,
  around: (callOriginal: () => Promise<unknown>, args: unknown[]) => unknown,
): void {
  const original = prototype[name] as Method;
  Object.defineProperty(prototype, name, {
    value: function (this: T, ...args: unknown[]) {
      return around(() => original.apply(this, args) as Promise<unknown>, args);
    },
  });
}

wrapMethod(Invalidation.prototype, 'awaitFences', async (awaitFences) => {
  const isFenced = await awaitFences();
  const write = currentWrite.getStore();
  if (write && !isFenced) write.invalidated = 'unfenced';
  if (write) await rest();
  reach('fenced');
  return isFenced;
});

// A write that is published and waits all the same was not fenced in the epoch of its COMMIT.
wrapMethod(DatabaseInvalidations.prototype, 'awaitInvalidation', (awaitInvalidation) => {
  const write = currentWrite.getStore();
  if (write?.invalidated === 'fenced') write.invalidated = 'unfenced';
  return awaitInvalidation();
});

wrapMethod(GuardedStore.prototype, 'publish', async (publish) => {
  try {
    return await publish();
  } catch (error) {
    const write = currentWrite.getStore();
    if (write?.invalidated === 'fenced') write.invalidated = 'unpublished';
    throw error;
  }
});

wrapMethod(Invalidation.prototype, 'publish', async (publish) => {
  await publish();
  reach('published');
});

wrapMethod(pg.Client.prototype, 'query', (query, [text]) => {
  const answer = query();
  if (text !== 'COMMIT') return answer;
  setImmediate(() => reach('commit sent'));
  return answer.then((result) => {
    reach('committed');
    return result;
  });
});
