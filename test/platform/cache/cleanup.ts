/** Undoes the setup of a test after it, in reverse order. */
import { afterEach } from '@jest/globals';

/** Registers a step that runs after the current test, whether it passes or fails. */
export type AfterThisTest = (undo: () => unknown) => void;

/** Call it once, at the top level of a spec file. */
export function registerCleanup(): AfterThisTest {
  const steps: (() => unknown)[] = [];
  afterEach(async () => {
    for (const undo of steps.splice(0).reverse()) await undo();
  });
  return (undo) => void steps.push(undo);
}
