/** The protocol between several nodes as a system to explore, and what it promises. */
import { showCell } from '../scripts.js';
import type { StateSystem, Step } from '../state-space.js';
import { fieldWidths, fromFields, isComplete, toFields } from './encoding.js';
import { ENVIRONMENT_STEPS } from './environment-steps.js';
import { DELETION_TOKEN, NODE_STEPS } from './node-steps.js';
import { READER_STEPS } from './reader-steps.js';
import { REPETITION_STEPS } from './repetition-steps.js';
import { initialState, isLost, type Setup, type State, versionOf, WriterAt } from './state.js';
import { type Answer, nameOfNode, showPlace, showRows, type Steps } from './turn.js';
import { WRITER_STEPS } from './writer-steps.js';

export function systemOf(setup: Setup): StateSystem<State> {
  return {
    initial: initialState(setup),
    successors: (state) => successorsOf(setup, state),
    widths: fieldWidths(setup),
    toFields: (state, fields) => toFields(setup, state, fields),
    fromFields: (fields) => fromFields(setup, fields),
    show: (state) => show(setup, state),
    // What an ablation breaks is a promise; that it goes on working does not matter.
    ...(isComplete(setup.parts) && { isAtRest }),
  };
}

function successorsOf(setup: Setup, state: State): Step<State>[] {
  const found: Step<State>[] = [];
  let name = '';
  const take = (words: string, next: Partial<State>, answer?: Answer): void => {
    const after = { ...state, ...next };
    found.push({ name, words, state: after, violation: answer && brokenBy(after, answer) });
  };
  const offer = (steps: Steps, actor: number): void => {
    const turn = { setup, state, actor, take };
    for (name in steps) steps[name]?.(turn);
  };
  for (let index = 0; index < setup.nodes.length; index++) offer(NODE_STEPS, index);
  for (let number = 1; number <= setup.writers.length; number++) offer(WRITER_STEPS, number);
  for (let number = 1; number <= setup.readers.length; number++) offer(READER_STEPS, number);
  if (setup.repetitionAt !== undefined) offer(REPETITION_STEPS, setup.repetitionAt);
  offer(ENVIRONMENT_STEPS, 0);
  return found;
}

/** Every step that the tables name. */
export const STEP_NAMES: readonly string[] = [
  NODE_STEPS,
  WRITER_STEPS,
  READER_STEPS,
  REPETITION_STEPS,
  ENVIRONMENT_STEPS,
].flatMap((steps) => Object.keys(steps));

/**
 * Every write is answered, no row waits, and every node that uses the epoch's cache has an open
 * gate. Or the epoch names what nobody uses, and the budget allows no further move.
 */
function isAtRest({ database, primary, nodes, writers, repetition, left }: State): boolean {
  const users = nodes.filter(({ incarnation }) => incarnation === database.incarnation);
  const isUsable = users.length > 0 && database.server === primary;
  if (!isUsable) return left.moves === 0;
  const isAnswered = writers.every(
    ({ at }) => at === WriterAt.Acknowledged || at === WriterAt.Over || at === WriterAt.Idle,
  );
  const isRepeated = repetition.at === 'idle' || repetition.at === 'done';
  return isAnswered && isRepeated && database.table === 0 && users.every(({ isOpen }) => isOpen);
}

function show(setup: Setup, state: State): string {
  const { database, nodes, cells } = state;
  const gates = nodes.flatMap(({ isOpen }, index) => (isOpen ? nameOfNode(index).slice(-1) : []));
  const keys = cells.flatMap((cell, index) =>
    cell.is === 'absent' ? [] : `${showPlace(setup, index + 1)} ${showCell(cell, DELETION_TOKEN)}`,
  );
  return [
    `epoch ${database.epoch}`,
    `open: ${gates.join(' ') || '-'}`,
    `committed ${versionOf(state, database.author)}`,
    ...(database.table === 0 ? [] : [showRows(database.table)]),
    ...keys,
  ].join('; ');
}

/** The promise that an answer breaks. */
function brokenBy(state: State, { author, since, session }: Answer): string | undefined {
  const version = versionOf(state, author);
  if (isLost(state, author)) {
    // Until the old gates have closed, nobody can know of the promotion.
    const isOwedPromoted = session === state.primary || since > state.survivingVersion;
    return isOwedPromoted
      ? `G3: answered version ${version}, which PostgreSQL has lost`
      : undefined;
  }
  if (version >= since) return undefined;
  return `G1: answered version ${version}; version ${since} was acknowledged before the read began`;
}
