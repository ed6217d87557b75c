/** Runs once, after the last test. A run that is killed is cleaned up by scripts/janitor.mjs. */
export default async function globalTeardown() {
  await globalThis.endTestRun?.();
}
