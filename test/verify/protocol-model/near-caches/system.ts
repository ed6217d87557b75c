/** The protocol of near caches as a system to explore, and what it promises. */
import { BEYOND, showCell } from '../scripts.js';
import type { StateSystem, Step } from '../state-space.js';
import { fieldWidths, fromFields, toFields } from './encoding.js';
import { ENVIRONMENT_STEPS } from './environment-steps.js';
import { NODE_STEPS } from './node-steps.js';
import { has, initialState, Marker, type Setup, type State, WriterAt } from './state.js';
import { type Answer, nameOfNode, type Steps } from './turn.js';
import { WRITER_STEPS } from './writer-steps.js';

export function systemOf(setup: Setup): StateSystem<State> {
  const isComplete = !Object.values(setup.parts).includes(false);
  return {
    initial: initialState(setup),
    successors: (state) => successorsOf(setup, state),
    widths: fieldWidths(setup),
    toFields: (state, fields) => toFields(setup, state, fields),
    fromFields: (fields) => fromFields(setup, fields),
    show,
    // What an ablation breaks is a promise; that it goes on working does not matter.
    ...(isComplete && { isAtRest }),
  };
}

function successorsOf(setup: Setup, state: State): Step<State>[] {
  const found: Step<State>[] = [];
  let name = '';
  const take = (words: string, next: Partial<State>, answer?: Answer): void => {
    const violation = answer && brokenBy(setup, answer);
    found.push({ name, words, state: { ...state, ...next }, violation });
  };
  const offer = (steps: Steps, actor: number): void => {
    for (name in steps) steps[name]?.({ setup, state, actor, take });
  };
  for (let index = 0; index < setup.nodes; index++) offer(NODE_STEPS, index);
  for (let index = 0; index < setup.writers.length; index++) offer(WRITER_STEPS, index);
  offer(ENVIRONMENT_STEPS, 0);
  return found;
}

/** Every write is over, and every node has a lease in a whole list. */
const isAtRest = ({ writers, nodes, marker, isEnqueued }: State): boolean =>
  marker === Marker.Whole &&
  writers.every(({ at }) => at === WriterAt.Over || at === WriterAt.Idle || isEnqueued) &&
  nodes.every(({ hasLease, isOpen }) => hasLease || !isOpen);

function brokenBy({ hasAgreement }: Setup, { version, owed }: Answer): string | undefined {
  if (version >= owed) return undefined;
  const reason = hasAgreement ? 'an earlier read saw' : 'was acknowledged before the read began:';
  return `${hasAgreement ? 'agreement' : 'G1'}: answered version ${version}; ${reason} ${owed}`;
}

function show({ row, cell, marker, listed, nodes }: State): string {
  const members = nodes.flatMap((_, index) =>
    has(listed, index) ? nameOfNode(index).slice(-1) : [],
  );
  const memories = nodes.map(({ entry, hasLease }, index) => {
    const holds = entry === 0 ? '-' : `V${entry - 1}`;
    return `${nameOfNode(index).slice(-1)} ${holds}${hasLease ? '' : ' (no lease)'}`;
  });
  return [
    `committed ${row}`,
    `key ${showCell(cell, BEYOND)}`,
    `list ${members.join(' ') || '-'} (${Marker[marker].toLowerCase()})`,
    ...memories,
  ].join('; ');
}
