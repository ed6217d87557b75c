/** The protocol around one key as a system to explore, and what it promises. */
import { showCell } from '../scripts.js';
import type { StateSystem, Step } from '../state-space.js';
import { fieldWidths, fromFields, toFields } from './encoding.js';
import { ENVIRONMENT_STEPS } from './environment-steps.js';
import {
  DELETION_TOKEN,
  hasCommitted,
  initialState,
  type Protocol,
  type State,
  versionOf,
} from './protocol.js';
import { READER_STEPS } from './reader-steps.js';
import { REPETITION_STEPS } from './repetition-steps.js';
import { TABLE_STEPS } from './table-steps.js';
import type { Answer, Steps } from './turn.js';
import { WRITER_STEPS } from './writer-steps.js';

export function systemOf(protocol: Protocol): StateSystem<State> {
  return {
    initial: initialState(protocol),
    successors: (state) => successorsOf(protocol, state),
    widths: fieldWidths(protocol),
    toFields: (state, fields) => toFields(protocol, state, fields),
    fromFields: (fields) => fromFields(protocol, fields),
    show,
  };
}

function successorsOf(protocol: Protocol, state: State): Step<State>[] {
  const found: Step<State>[] = [];
  let name = '';
  const take = (words: string, next: Partial<State>, answer?: Answer): void => {
    const after = { ...state, ...next, seen: seenAfter(protocol, state, answer) };
    found.push({ name, words, state: after, violation: brokenBy(after, answer) });
  };
  const offer = (steps: Steps, actor: number): void => {
    const turn = { protocol, state, actor, take };
    for (name in steps) steps[name]?.(turn);
  };
  for (let number = 1; number <= state.writers.length; number++) offer(WRITER_STEPS, number);
  for (let number = 1; number <= state.readers.length; number++) offer(READER_STEPS, number);
  if (protocol.repetition !== 'none') offer(REPETITION_STEPS, 0);
  offer(TABLE_STEPS, 0);
  offer(ENVIRONMENT_STEPS, 0);
  return found;
}

function seenAfter({ promise }: Protocol, state: State, answer: Answer | undefined): number {
  if (promise !== 'agreement' || !answer) return state.seen;
  return Math.max(state.seen, versionOf(state, answer.author));
}

function show(state: State): string {
  const { cell, row, hasRows } = state;
  const enqueued = hasRows ? ', row in the table' : '';
  return `key ${showCell(cell, DELETION_TOKEN)}, committed ${versionOf(state, row)}${enqueued}`;
}

/** G1 and the agreement of reads at an answer; G3 at an answer and in the key. */
function brokenBy(state: State, answer: Answer | undefined): string | undefined {
  const { cell } = state;
  if (answer) {
    const { author, since } = answer;
    if (!hasCommitted(state, author)) return `G3: answered what was never committed`;
    const version = versionOf(state, author);
    if (version < since) {
      const isAcknowledged = since <= state.acknowledged;
      return isAcknowledged
        ? `G1: answered version ${version}; version ${since} was acknowledged before the read began`
        : `agreement: answered version ${version} after a read of version ${since} had ended`;
    }
  }
  if (cell.is === 'entry' && !hasCommitted(state, cell.author)) {
    return `G3: cached what was never committed`;
  }
  return undefined;
}
