/**
 * A thread that explores claims for protocol-model.spec.ts: in jest's own context, where each use
 * of a global is looked up, an exploration takes twice as long. It gets the name of a claim and
 * answers with what was found.
 */
import { parentPort } from 'node:worker_threads';
import { CLAIMS, type Finding } from './claims.js';

/** What the thread answers. */
export type Answer = Pick<Finding, 'outcome' | 'trace'>;

parentPort?.on('message', (name: string) => {
  const claim = CLAIMS.find((candidate) => candidate.name === name);
  if (!claim) throw new Error(`There is no claim "${name}"`);
  const { outcome, trace } = claim.explore();
  parentPort?.postMessage({ outcome, trace } satisfies Answer);
});
