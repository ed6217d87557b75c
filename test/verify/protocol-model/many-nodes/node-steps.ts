/**
 * What a node does besides reading and writing: its pass (register, look at the table, apply rows,
 * open the gate), the end of its gate and of its registration, and the moves of the epoch.
 */
import { publish } from '../scripts.js';
import {
  cellAt,
  isInEpoch,
  NO_ROWS_TAKEN,
  type Node,
  nodeAt,
  placeOf,
  ReaderAt,
  type Setup,
  type State,
  WriterAt,
} from './state.js';
import {
  isNobodyRegistered,
  nameOfNode,
  showIncarnation,
  showPlace,
  showRows,
  spend,
  type Steps,
  type Turn,
  withCell,
  withDatabase,
  withNode,
  withReader,
  withRegistration,
} from './turn.js';

/** The token under which keys are deleted; writers have 1 and 2. */
export const DELETION_TOKEN = 3;

export const NODE_STEPS: Steps = {
  'connects to another incarnation'({ setup, state, actor, take }) {
    if (state.left.changes === 0) return;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    for (let incarnation = 0; incarnation < setup.incarnations; incarnation++) {
      if (incarnation === node.incarnation) continue;
      const name = showIncarnation(incarnation);
      const words = `${nameOfNode(actor)} is connected to incarnation ${name} now`;
      const next = {
        ...withNode(state, actor, {
          incarnation,
          isOpen: node.isOpen && !parts.closesWithIncarnation,
          seenRows: parts.changeEndsPass ? undefined : node.seenRows,
        }),
        ...(parts.closesWithIncarnation && parts.changeEndsPass
          ? withRegistration(state, actor, 0)
          : {}),
        ...spend(state, 'changes'),
      };
      take(words, next);
      offerReadsUnderWay({ setup, state, actor, take }, words, next);
    }
  },

  'reads the epoch'({ state, actor, take }) {
    const { database } = state;
    const node = nodeAt(state, actor);
    // A node that the epoch names reads it when it registers.
    if (node.incarnation === database.incarnation || node.epoch === database.epoch) return;
    if (!isListening(state, node) || node.isOpen || node.seenRows !== undefined) return;
    take(`${nameOfNode(actor)} reads ${showEpoch(state)}`, {
      ...withNode(state, actor, { epoch: database.epoch }),
    });
  },

  registers({ setup, state, actor, take }) {
    const { database } = state;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    if (!isListening(state, node) || node.isOpen || !mayUseEpoch(setup, state, node)) return;
    if (node.epoch === database.epoch && database.registry[actor] === database.epoch) return;
    const hasLooked = node.seenRows !== undefined && node.epoch === database.epoch;
    if (!parts.registersBeforeLooking && !hasLooked) return;
    take(`${nameOfNode(actor)} registers for ${showEpoch(state)}`, {
      ...withNode(state, actor, {
        epoch: database.epoch,
        seenRows: parts.registersBeforeLooking ? undefined : node.seenRows,
      }),
      ...withRegistration(state, actor, database.epoch),
    });
  },

  'looks at the table'({ setup, state, actor, take }) {
    const { database } = state;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    if (!isListening(state, node) || node.isOpen) return;
    const isRegistered = node.epoch !== 0 && database.registry[actor] === node.epoch;
    const looksFirst = !parts.registersBeforeLooking && mayUseEpoch(setup, state, node);
    const skipsCheck = !parts.passChecksRegistration && node.epoch !== 0;
    if (!isRegistered && !looksFirst && !skipsCheck) return;
    const epoch = looksFirst ? database.epoch : node.epoch;
    if (node.seenRows === database.table && node.epoch === epoch) return;
    const words = `${nameOfNode(actor)} looks at the table: ${showRows(database.table)}`;
    if (database.table === 0 && isRegistered) {
      // With nothing to wait for it may open at once; to open later allows less.
      take(`${words}; it opens its gate`, {
        ...withNode(state, actor, { isOpen: true, seenRows: undefined }),
      });
    } else {
      take(words, withNode(state, actor, { epoch, seenRows: database.table }));
    }
  },

  'opens its gate'({ setup, state, actor, take }) {
    const { database } = state;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    if (node.isOpen || node.seenRows === undefined) return;
    if (!isListening(state, node)) return;
    if (!parts.registersBeforeLooking && database.registry[actor] !== node.epoch) return;
    if (parts.opensWhenRowsAreGone && (node.seenRows & database.table) !== 0) return;
    take(`${nameOfNode(actor)} opens its gate`, {
      ...withNode(state, actor, { isOpen: true, seenRows: undefined }),
    });
  },

  'prolongs its gate without a look'({ setup, state, actor, take }) {
    const node = nodeAt(state, actor);
    if (setup.parts.renewalLooksAtTable || !node.isOpen || !isListening(state, node)) return;
    const ignoredRows = node.ignoredRows | state.database.table;
    if (ignoredRows === node.ignoredRows) return;
    take(`${nameOfNode(actor)}'s heartbeat succeeds and prolongs its gate`, {
      ...withNode(state, actor, { ignoredRows }),
    });
  },

  /** By itself, or because its time is over. To stay registered then only holds others back. */
  'closes its gate'({ setup, state, actor, take }) {
    if (!nodeAt(state, actor).isOpen) return;
    const words = `${nameOfNode(actor)}'s gate closes`;
    const next = {
      ...withNode(state, actor, { isOpen: false, ignoredRows: 0 }),
      ...withRegistration(state, actor, 0),
    };
    take(words, next);
    offerReadsUnderWay({ setup, state, actor, take }, words, next);
  },

  'ends its registration'({ setup, state, actor, take }) {
    const { database, left } = state;
    if (database.registry[actor] === 0) return;
    const ended = withRegistration(state, actor, 0);
    if (!setup.parts.closesBeforeUnregistering) {
      take(`${nameOfNode(actor)} ends its registration, to close its gate then`, ended);
    }
    if (!nodeAt(state, actor).isOpen) {
      take(`${nameOfNode(actor)} is not registered any more`, {
        ...ended,
        ...withNode(state, actor, { seenRows: undefined }),
      });
    } else if (!setup.parts.registrationOutlivesGate && left.lostSessions > 0) {
      take(`PostgreSQL ends the session of ${nameOfNode(actor)}, which does not notice`, {
        ...ended,
        ...spend(state, 'lostSessions'),
      });
    }
  },

  'moves the epoch'(turn) {
    const { setup, state, actor, take } = turn;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    if (state.left.moves === 0 || !isListening(state, node)) return;
    const seesNobody = isNobodyRegistered(state) || !parts.moveNeedsEmptyRegistry;
    if (parts.moveExcludesRegistration) {
      if (seesNobody) offerMove(turn);
    } else if (node.isMoving) {
      offerMove(turn);
    } else if (seesNobody) {
      take(`${nameOfNode(actor)} sees that nobody is registered`, {
        ...withNode(state, actor, { isMoving: true }),
      });
    }
  },

  'takes rows'({ setup, state, actor, take }) {
    const { database } = state;
    const { parts } = setup;
    const node = nodeAt(state, actor);
    const mayTake = isListening(state, node) && node.epoch !== 0 && node.takenRows === 0;
    if (!mayTake || database.table === 0) return;
    // What a node believes of an epoch that has moved meanwhile.
    const believes = node.epoch !== database.epoch && !parts.epochReadWithRows;
    if (parts.appliesInEpochOnly && !isInEpoch(state, node) && !believes) return;
    take(`${nameOfNode(actor)} takes ${showRows(database.table)}`, {
      ...withNode(state, actor, {
        takenRows: database.table,
        takenPlace: placeOf(setup, node.incarnation, node.epoch),
        areKeysDeleted: false,
      }),
    });
  },

  'deletes the keys of rows'({ setup, state, actor, take }) {
    const { takenRows, takenPlace, areKeysDeleted } = nodeAt(state, actor);
    const { keysBeforeRows } = setup.parts;
    if (takenRows === 0 || areKeysDeleted) return;
    const areRowsThere = (state.database.table & takenRows) !== 0;
    if (!keysBeforeRows && areRowsThere) return;
    take(`${nameOfNode(actor)} deletes the key in ${showPlace(setup, takenPlace)}`, {
      ...withNode(state, actor, keysBeforeRows ? { areKeysDeleted: true } : NO_ROWS_TAKEN),
      ...withDeletedKey(setup, state, takenPlace),
    });
  },

  'removes rows'({ setup, state, actor, take }) {
    const { database } = state;
    const node = nodeAt(state, actor);
    const { keysBeforeRows } = setup.parts;
    if (!isListening(state, node) || node.areKeysDeleted !== keysBeforeRows) return;
    if ((database.table & node.takenRows) === 0) return;
    take(`${nameOfNode(actor)} removes ${showRows(node.takenRows)}`, {
      ...withNode(state, actor, keysBeforeRows ? NO_ROWS_TAKEN : {}),
      ...withDatabase(state, { table: database.table & ~node.takenRows }),
    });
  },

  'listens to the promoted server'({ state, actor, take }) {
    const node = nodeAt(state, actor);
    if (isListening(state, node)) return;
    take(`${nameOfNode(actor)} closes its gate and connects to the promoted PostgreSQL`, {
      ...withNode(state, actor, { session: state.primary, isOpen: false, seenRows: undefined }),
      ...withRegistration(state, actor, 0),
    });
  },
};

/** A deletion as the scripts have it: a publication that leaves the key absent. */
export function withDeletedKey(setup: Setup, state: State, place: number): Pick<State, 'cells'> {
  const cell = cellAt(state, place);
  return withCell(state, place, publish(setup.parts, cell, DELETION_TOKEN, undefined));
}

const isListening = ({ primary }: State, { session }: Node): boolean => session === primary;

function mayUseEpoch({ parts }: Setup, { database, primary }: State, node: Node): boolean {
  const namesIncarnation = database.incarnation === node.incarnation;
  const namesServer = database.server === primary || !parts.epochNamesDatabase;
  return namesServer && (namesIncarnation || !parts.registersForOwnIncarnation);
}

function offerMove({ setup, state, actor, take }: Turn): void {
  const { parts } = setup;
  const { database, primary, nodes, writers } = state;
  const isCommitting = writers.some(({ at }) => at === WriterAt.Checked);
  if (isCommitting && parts.commitExcludesMove) return;
  const isPromoted = database.server !== primary;
  const mayOldGateBeOpen = nodes.some(({ session, isOpen }) => session !== primary && isOpen);
  if (isPromoted && parts.moveWaitsAfterPromotion && mayOldGateBeOpen) return;
  const { incarnation } = nodeAt(state, actor);
  const epoch = 1 + (parts.epochIsFresh ? state.epochs : database.epoch);
  const next = withDatabase(state, { epoch, incarnation, server: primary });
  take(`${nameOfNode(actor)} moves the epoch: ${showEpoch({ ...state, ...next })}`, {
    ...next,
    epochs: Math.max(state.epochs, epoch),
    ...withNode(state, actor, { isMoving: false }),
    ...spend(state, 'moves'),
  });
}

/**
 * Reads of this node that have looked at the gate and sent their command just before `next`. A read
 * that begins later is owed more, so none needs to begin earlier than that.
 */
function offerReadsUnderWay(turn: Turn, words: string, next: Partial<State>): void {
  const { setup, state, actor, take } = turn;
  const { incarnation, epoch, isOpen, session } = nodeAt(state, actor);
  if (!isOpen || !setup.parts.gateBeforeCommand) return;
  setup.readers.forEach((node, index) => {
    if (node !== actor || state.readers[index]?.at !== ReaderAt.Idle) return;
    take(`reader ${index + 1} sees an open gate and sends its command; ${words}`, {
      ...next,
      ...withReader(state, index + 1, {
        at: ReaderAt.Asked,
        place: placeOf(setup, incarnation, epoch),
        since: state.acknowledged,
        session,
      }),
    });
  });
}

const showEpoch = ({ database }: State): string =>
  `epoch ${database.epoch}, of incarnation ${showIncarnation(database.incarnation)}`;
