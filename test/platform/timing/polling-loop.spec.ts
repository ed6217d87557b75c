/**
 * The background loop: no lost wake-up, no overlapping steps, growing pauses after failures, an end
 * that waits.
 */
import { afterEach, expect, it } from '@jest/globals';
import { PollingLoop } from '../../../src/platform/timing/polling-loop.js';
import { eventually } from '../../support/eventually.js';

const LONG_PAUSE_MS = 3_600_000;
const retry = { minMs: 1, maxMs: 4 };

const loops: PollingLoop[] = [];
function start(step: () => Promise<number>, onError: (error: unknown) => void = fail): PollingLoop {
  const loop = new PollingLoop({ step, onError, retry, random: () => 0.5 });
  loops.push(loop);
  loop.start();
  return loop;
}
function fail(error: unknown): void {
  throw error;
}
afterEach(() => Promise.all(loops.splice(0).map((loop) => loop.stop())));

it('runs a step at once and the next one when it is woken, however long the pause', async () => {
  let steps = 0;
  const loop = start(async () => {
    steps++;
    return LONG_PAUSE_MS;
  });
  await eventually('the first step ran', () => steps === 1);
  loop.wake();
  await eventually('the second step ran', () => steps === 2);
});

it('skips the pause when it was woken during the step before', async () => {
  let steps = 0;
  const loop = start(async () => {
    await Promise.resolve();
    steps++;
    if (steps === 1) loop.wake();
    return LONG_PAUSE_MS;
  });
  await eventually('the second step ran', () => steps === 2);
});

it('pauses after a step that cleared the wakes before its own work', async () => {
  let steps = 0;
  const loop = start(async () => {
    await Promise.resolve();
    steps++;
    loop.wake();
    loop.clearWake();
    return LONG_PAUSE_MS;
  });
  // A skipped pause would run the second step in the same turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve));
  expect(steps).toBe(1);
  loop.wake();
  await eventually('the second step ran when it was woken', () => steps === 2);
});

it('never runs two steps at once, however often it is woken', async () => {
  let running = 0;
  let most = 0;
  let steps = 0;
  const loop = start(async () => {
    running++;
    most = Math.max(most, running);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    steps++;
    return LONG_PAUSE_MS;
  });
  await eventually('twenty steps ran', () => {
    loop.wake();
    return steps >= 20;
  });
  expect(most).toBe(1);
});

it('reports what a step throws and goes on', async () => {
  const errors: unknown[] = [];
  let steps = 0;
  start(
    async () => {
      steps++;
      if (steps < 4) throw new Error(`step ${steps}`);
      return LONG_PAUSE_MS;
    },
    (error) => errors.push(error),
  );
  await eventually('the fourth step ran', () => steps === 4);
  expect(errors.map(String)).toEqual(['Error: step 1', 'Error: step 2', 'Error: step 3']);
});

it('stop waits for the running step, begins no further one and ends the pause', async () => {
  let finish: () => void = () => undefined;
  let steps = 0;
  const loop = start(async () => {
    steps++;
    await new Promise<void>((resolve) => (finish = resolve));
    return 0;
  });
  await eventually('the step began', () => steps === 1);
  let stopped = false;
  const stopping = loop.stop().then(() => (stopped = true));
  await new Promise((resolve) => setImmediate(resolve));
  expect(stopped).toBe(false);
  finish();
  await stopping;
  expect(steps).toBe(1);
});
