/**
 * Waits for conditions instead of times: a test is as fast as its machine and does not fail because
 * the machine is slow.
 */
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_INTERVAL_MS = 10;
/**
 * Only ends tests that hang: far longer than anything takes, also on a busy machine. Mutants make
 * tests hang on purpose, and set less.
 */
const GIVE_UP_MS = Number(process.env.HOLDFAST_GIVE_UP_MS ?? 60_000);

/**
 * Resolves with the first truthy result of `condition`. An error that it throws means "not yet".
 * @param what completes the sentence "It never happened that …"
 * @throws Error with the last result or error when the condition did not become true in time
 */
export async function eventually<T>(
  what: string,
  condition: () => T | Promise<T>,
  giveUpMs = GIVE_UP_MS,
): Promise<T> {
  const deadline = performance.now() + giveUpMs;
  let last: unknown;
  while (performance.now() < deadline) {
    try {
      const result = await condition();
      if (result) return result;
      last = result;
    } catch (error) {
      last = error;
    }
    await sleep(POLL_INTERVAL_MS);
  }
  throw new Error(`It never happened that ${what}; last: ${String(last)}`, { cause: last });
}
