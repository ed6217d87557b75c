/**
 * A write: fence under the node's name, COMMIT, publish, acknowledge; or wait, if the fence or the
 * publication failed. SQL and row lock are part of the COMMIT here: versions follow its order.
 */
import { fence, publish } from '../scripts.js';
import {
  cellAt,
  type Node,
  NO_PLACE,
  nodeAt,
  placeOf,
  type Setup,
  type State,
  versionOf,
  type Writer,
  WriterAt,
  writerAt,
  type WriterSetup,
} from './state.js';
import {
  acknowledge,
  isNobodyRegistered,
  rowOf,
  showPlace,
  spend,
  type Steps,
  type Turn,
  withCell,
  withDatabase,
  withWriter,
} from './turn.js';

export const WRITER_STEPS: Steps = {
  fences({ setup, state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.Idle || !isNextToBegin(setup, state, actor)) return;
    const { node: index, release } = setupOf(setup, actor);
    const node = nodeAt(state, index);
    if (node.epoch === 0) {
      take(`writer ${actor} has no name to fence under`, {
        ...withWriter(state, actor, { at: WriterAt.Unfenced }),
      });
      return;
    }
    const place = placeOf(setup, node.incarnation, node.epoch);
    const fenced = withWriter(state, actor, { at: WriterAt.Fenced, place });
    if (release === 'current') {
      take(`writer ${actor} fences in ${showPlace(setup, place)}`, {
        ...fenced,
        ...withCell(state, place, fence(setup.parts, cellAt(state, place), actor)),
      });
    } else {
      take(`writer ${actor} fences the keys that it knows in ${showPlace(setup, place)}`, fenced);
    }
    if (state.left.failedFences > 0) {
      take(`writer ${actor} cannot fence`, {
        ...withWriter(state, actor, { at: WriterAt.Unfenced }),
        ...spend(state, 'failedFences'),
      });
    }
  },

  'looks at the registry too early'({ setup, state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (setup.parts.looksAfterCommit || at !== WriterAt.Unfenced) return;
    if (!isNobodyRegistered(state)) return;
    take(`writer ${actor} sees that nobody is registered`, {
      ...withWriter(state, actor, { at: WriterAt.UnfencedAlone }),
    });
  },

  'commits without a wait'({ state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.UnfencedAlone) return;
    const { words, next } = commit(state, actor, WriterAt.Acknowledged);
    take(`${words}; its keys are enqueued, and it acknowledges`, {
      ...next,
      ...withDatabase({ ...state, ...next }, { table: state.database.table | rowOf(actor) }),
      ...acknowledge({ ...state, ...next }, actor),
    });
  },

  commits({ setup, state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (at !== WriterAt.Fenced && at !== WriterAt.Unfenced) return;
    if (at === WriterAt.Fenced && isTakenForFenced(setup, state, actor)) {
      take(`writer ${actor} sends COMMIT; PostgreSQL takes it for fenced`, {
        ...withWriter(state, actor, { at: WriterAt.Checked }),
      });
      return;
    }
    const hears = setup.parts.writerHearsDatabase || at === WriterAt.Unfenced;
    const { words, next } = commit(state, actor, hears ? WriterAt.Waiting : WriterAt.Committed);
    take(`${words}; its keys are enqueued${hears ? '' : ', and it does not hear of that'}`, {
      ...next,
      ...withDatabase({ ...state, ...next }, { table: state.database.table | rowOf(actor) }),
    });
  },

  'commits in effect'({ state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.Checked) return;
    const { words, next } = commit(state, actor, WriterAt.Committed);
    take(words, next);
  },

  'dies at COMMIT'({ state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (at !== WriterAt.Fenced && at !== WriterAt.Unfenced) return;
    if (state.left.unansweredCommits === 0) return;
    take(`writer ${actor} sends COMMIT and dies`, {
      ...withWriter(state, actor, { at: WriterAt.Unanswered }),
      ...spend(state, 'unansweredCommits'),
    });
  },

  'commits in effect, unanswered'({ setup, state, actor, take }) {
    const { at, place } = writerAt(state, actor);
    if (at !== WriterAt.Unanswered) return;
    const { words, next } = commit(state, actor, WriterAt.Over);
    if (place !== NO_PLACE && isTakenForFenced(setup, state, actor)) {
      take(words, next);
    } else {
      take(`${words}; its keys are enqueued`, {
        ...next,
        ...withDatabase({ ...state, ...next }, { table: state.database.table | rowOf(actor) }),
      });
    }
  },

  publishes({ setup, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    if (at !== WriterAt.Committed) return;
    const { release } = setupOf(setup, actor);
    const place = placeToPublish(setup, state, actor);
    const next = {
      ...withWriter(state, actor, { at: WriterAt.Acknowledged, place: NO_PLACE }),
      ...acknowledge(state, actor),
    };
    const outcome = `in ${showPlace(setup, place)} and acknowledges version ${version}`;
    if (release === 'older' || place === NO_PLACE) {
      take(`writer ${actor} publishes the keys that it knows ${outcome}`, next);
      return;
    }
    const entry = { is: 'entry', author: actor, version, none: false, claim: 0 } as const;
    take(`writer ${actor} publishes ${outcome}`, {
      ...next,
      ...withCell(state, place, publish(setup.parts, cellAt(state, place), actor, entry)),
    });
  },

  'fails to publish'({ setup, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    const { parts } = setup;
    const { database, left } = state;
    if (at !== WriterAt.Committed || left.failedPublications === 0) return;
    const waiting = withWriter(state, actor, { at: WriterAt.Waiting, place: NO_PLACE });
    const enqueued = withDatabase(state, { table: database.table | rowOf(actor) });
    const spent = spend(state, 'failedPublications');
    if (!parts.failedPublicationWaits) {
      take(`writer ${actor} cannot publish, enqueues its keys, acknowledges version ${version}`, {
        ...withWriter(state, actor, { at: WriterAt.Acknowledged, place: NO_PLACE }),
        ...enqueued,
        ...acknowledge(state, actor),
        ...spent,
      });
    } else if (parts.failedPublicationEnqueues) {
      const next = { ...waiting, ...enqueued, ...spent };
      take(`writer ${actor} cannot publish and enqueues its keys`, next);
    } else {
      take(`writer ${actor} cannot publish`, { ...waiting, ...spent });
    }
  },

  'fails to publish and to enqueue'({ setup, state, actor, take }) {
    const { left } = state;
    const { at } = writerAt(state, actor);
    const mayFail = left.failedPublications > 0 && left.failedEnqueues > 0;
    if (at !== WriterAt.Committed || !mayFail) return;
    const isRefused = setup.parts.failedEnqueueIsNoAcknowledgement;
    const outcome = isRefused ? ', so it answers an error' : '';
    take(`writer ${actor} can neither publish nor enqueue its keys${outcome}`, {
      ...withWriter(state, actor, {
        at: isRefused ? WriterAt.Over : WriterAt.Waiting,
        place: NO_PLACE,
      }),
      ...spend(state, 'failedPublications', 'failedEnqueues'),
    });
  },

  'acknowledges after its wait'({ setup, state, actor, take }) {
    const { at, version, server } = writerAt(state, actor);
    if (at !== WriterAt.Waiting) return;
    const reason = setup.parts.unfencedWaits
      ? reasonToEndWait(setup, state, rowOf(actor), server)
      : 'it does not wait';
    if (reason === undefined) return;
    take(`writer ${actor} acknowledges version ${version}: ${reason}`, {
      ...withWriter(state, actor, { at: WriterAt.Acknowledged, place: NO_PLACE }),
      ...acknowledge(state, actor),
      ...(reason === TIME_HAS_PASSED ? endOldPasses(state, rowOf(actor)) : {}),
    });
  },
};

const TIME_HAS_PASSED = 'the longest time that a gate stays open has passed';

/**
 * Why a wait for `row` may end now; undefined: it may not.
 * @param server the PostgreSQL server that took the COMMIT
 */
export function reasonToEndWait(
  setup: Setup,
  state: State,
  row: number,
  server: number,
): string | undefined {
  const { parts } = setup;
  const { database, primary, nodes } = state;
  const trustsTable = server === primary || !parts.waitChecksDatabase;
  const trustsRegistry = database.server === primary || !parts.waitChecksDatabase;
  if (trustsTable && (database.table & row) === 0) {
    if (parts.failedPublicationEnqueues) return 'its row is not in the table';
    return 'no pass has seen a row, and the time that it waits has passed';
  }
  const isAnyoneElse = database.registry.some((epoch) => epoch !== 0 && epoch !== database.epoch);
  const mayRead = parts.waitCountsAllReaders ? !isNobodyRegistered(state) : isAnyoneElse;
  if (trustsTable && trustsRegistry && !mayRead) {
    return parts.waitCountsAllReaders
      ? 'nobody is registered'
      : 'nobody is registered for another epoch';
  }
  const hasEnded = ({ isOpen, ignoredRows }: Node): boolean =>
    !isOpen || (ignoredRows & row) !== 0 || !parts.gateIsLease;
  return nodes.every(hasEnded) ? TIME_HAS_PASSED : undefined;
}

/** After that time, a pass that began before the row was there opens nothing any more. */
export function endOldPasses({ nodes }: State, row: number): Pick<State, 'nodes'> {
  const isOld = ({ seenRows }: Node): boolean => seenRows !== undefined && (seenRows & row) === 0;
  return { nodes: nodes.map((node) => (isOld(node) ? { ...node, seenRows: undefined } : node)) };
}

export const showTimeHasPassed = TIME_HAS_PASSED;

function commit(
  state: State,
  number: number,
  at: WriterAt,
): { words: string; next: Pick<State, 'writers' | 'database'> } {
  const version = versionOf(state, state.database.author) + 1;
  const isOver = at !== WriterAt.Committed;
  const place = isOver ? NO_PLACE : writerAt(state, number).place;
  return {
    words: `writer ${number}'s COMMIT takes effect: version ${version}`,
    next: {
      ...withWriter(state, number, { at, version, place, server: state.primary }),
      ...withDatabase(state, { author: number }),
    },
  };
}

/** What the trigger decides at COMMIT. */
function isTakenForFenced(setup: Setup, state: State, number: number): boolean {
  const { parts } = setup;
  const { database, primary } = state;
  if (setupOf(setup, number).release === 'older' && parts.databaseKnowsKeys) return false;
  if (!parts.commitChecksName) return true;
  const namesServer = database.server === primary || !parts.epochNamesDatabase;
  const place = placeOf(setup, database.incarnation, database.epoch);
  return namesServer && writerAt(state, number).place === place;
}

function placeToPublish(setup: Setup, state: State, number: number): number {
  const { place }: Writer = writerAt(state, number);
  const { incarnation, epoch } = nodeAt(state, setupOf(setup, number).node);
  if (setup.parts.publishesUnderFencedName || epoch === 0) return place;
  return placeOf(setup, incarnation, epoch);
}

const setupOf = (setup: Setup, number: number): WriterSetup =>
  setup.writers[number - 1] as WriterSetup;

/** Writers of one node and release are alike until they begin, so they begin in their order. */
function isNextToBegin(setup: Setup, { writers }: State, number: number): boolean {
  const { node, release } = setupOf(setup, number);
  return setup.writers.slice(0, number - 1).every((earlier, index) => {
    const isAlike = earlier.node === node && earlier.release === release;
    return !isAlike || writers[index]?.at !== WriterAt.Idle;
  });
}

export type { Turn };
