/** A write, step by step: SQL, fence, COMMIT, publication, acknowledgement, and its accidents. */
import { ABSENT, type Cell, fence, publish, unfence } from '../scripts.js';
import {
  entryOf,
  isCommitted,
  isMissing,
  type Protocol,
  type State,
  versionOf,
  WriterAt,
  writerAt,
} from './protocol.js';
import { acknowledge, spend, type Steps, type Turn, withWriter } from './turn.js';

export const WRITER_STEPS: Steps = {
  'updates by hand'({ protocol, state, actor, take }) {
    if (protocol.writers[actor - 1] !== 'psql' || !mayBegin(protocol, state, actor)) return;
    if (state.lock !== 0) return;
    const version = versionOf(state, state.row) + 1;
    take(`psql: UPDATE to version ${version}, committed; its keys are enqueued`, {
      ...withWriter(state, actor, { at: WriterAt.Waiting, version }),
      row: actor,
      hasRows: true,
    });
  },

  'runs its SQL'(turn) {
    const { protocol, state, actor } = turn;
    if (protocol.writers[actor - 1] === 'psql') return;
    const { at } = writerAt(state, actor);
    if (at === WriterAt.Fenced) {
      offerSql(turn, WriterAt.Ready);
    } else if (at === WriterAt.Idle && mayBegin(protocol, state, actor)) {
      const needsFence = protocol.fences !== 'never' && protocol.scheme === 'fenced';
      offerSql(turn, needsFence ? WriterAt.Locked : WriterAt.Ready);
    }
  },

  fences({ protocol, state, actor, take }) {
    const { at } = writerAt(state, actor);
    const isBeside =
      at === WriterAt.Idle &&
      protocol.fences === 'beside' &&
      protocol.writers[actor - 1] !== 'psql' &&
      mayBegin(protocol, state, actor);
    if (at !== WriterAt.Locked && !isBeside) return;
    take(`writer ${actor} fences${isBeside ? ', its SQL not done' : ''}`, {
      ...withWriter(state, actor, { at: isBeside ? WriterAt.Fenced : WriterAt.Ready }),
      cell: fence(protocol, state.cell, actor),
    });
  },

  'cannot fence'({ state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.Locked || state.left.failedFences === 0) return;
    take(`writer ${actor} cannot fence and goes on`, {
      ...withWriter(state, actor, { at: WriterAt.Ready, isUnfenced: true }),
      ...spend(state, 'failedFences'),
    });
  },

  'publishes, not committed'({ protocol, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    const isEarly = protocol.publishes === 'before COMMIT' && protocol.key === 'row';
    if (at !== WriterAt.Ready || !isEarly) return;
    take(`writer ${actor} publishes, not committed`, {
      cell: publish(protocol, state.cell, actor, entryOf(protocol, actor, version)),
    });
  },

  commits({ protocol, state, actor, take }) {
    const { at, version, isUnfenced } = writerAt(state, actor);
    if (at !== WriterAt.Ready) return;
    const committed = { row: actor, lock: 0 };
    const words = `writer ${actor}: COMMIT of version ${version}`;
    if (!isUnfenced) {
      take(words, { ...withWriter(state, actor, { at: WriterAt.Committed }), ...committed });
    } else if (protocol.enqueued === 'waits') {
      take(`${words}, whose keys are enqueued`, {
        ...withWriter(state, actor, { at: WriterAt.WaitingEarly, isUnfenced: false }),
        ...committed,
        hasRows: true,
      });
    } else {
      const next = withWriter(state, actor, {
        at: WriterAt.AcknowledgedEarly,
        isUnfenced: false,
      });
      take(`${words}, whose keys are enqueued; it is acknowledged`, {
        ...next,
        ...committed,
        ...acknowledge({ ...state, ...next }, actor),
        hasRows: true,
      });
    }
  },

  'commits without an answer'({ state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    if (at !== WriterAt.Ready || state.left.unansweredCommits === 0) return;
    take(`writer ${actor}: COMMIT of version ${version}, whose answer never comes`, {
      ...withWriter(state, actor, { at: WriterAt.Unanswered }),
      ...spend(state, 'unansweredCommits'),
    });
  },

  'commits or not, unanswered'({ state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    if (at !== WriterAt.Unanswered) return;
    take(`writer ${actor}'s COMMIT takes effect, version ${version}`, {
      ...withWriter(state, actor, { at: WriterAt.TookEffect }),
      row: actor,
      lock: 0,
    });
    take(`writer ${actor}'s COMMIT comes to nothing`, {
      ...withWriter(state, actor, { at: WriterAt.RolledBack, version: 0 }),
      lock: 0,
    });
  },

  /** From then on its version is owed, although nobody acknowledges it. */
  'learns of its COMMIT'({ protocol, state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.TookEffect) return;
    const next = {
      ...withWriter(state, actor, { at: WriterAt.Acknowledged }),
      ...acknowledge(state, actor),
    };
    if (protocol.unanswered === 'deadline') {
      take(`writer ${actor} never learns of its version`, next);
    } else {
      take(`writer ${actor} learns that its transaction is over, and deletes the key`, {
        ...next,
        cell: publish(protocol, state.cell, actor, undefined),
      });
    }
  },

  'rolls back'({ state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (at === WriterAt.Locked) {
      take(`writer ${actor}: ROLLBACK before its fence`, {
        ...withWriter(state, actor, { at: WriterAt.Over, version: 0, isUnfenced: false }),
        lock: 0,
      });
    } else if (at === WriterAt.Fenced || at === WriterAt.Ready) {
      take(`writer ${actor}: ROLLBACK`, {
        ...withWriter(state, actor, { at: WriterAt.RolledBack, version: 0, isUnfenced: false }),
        lock: state.lock === actor ? 0 : state.lock,
      });
    }
  },

  unfences({ protocol, state, actor, take }) {
    if (writerAt(state, actor).at !== WriterAt.RolledBack) return;
    take(`writer ${actor} unfences`, {
      ...withWriter(state, actor, { at: WriterAt.Over }),
      cell: unfence(protocol, state.cell, actor),
    });
  },

  publishes({ protocol, state, actor, take }) {
    const { at } = writerAt(state, actor);
    if (at !== WriterAt.Committed || protocol.publishes === 'after acknowledging') return;
    take(`writer ${actor} ${verbOf(protocol)}`, {
      ...withWriter(state, actor, { at: WriterAt.Published }),
      ...published(protocol, state, actor),
    });
  },

  'fails to publish'({ protocol, state, actor, take }) {
    const { at } = writerAt(state, actor);
    const isLate = protocol.publishes === 'after acknowledging';
    if (at !== WriterAt.Committed || isLate || state.left.failedPublications === 0) return;
    const words = `writer ${actor}: its publication is not answered, its keys are enqueued`;
    const next = { hasRows: true, ...spend(state, 'failedPublications') };
    if (protocol.enqueued === 'waits') {
      take(words, { ...withWriter(state, actor, { at: WriterAt.WaitingEarly }), ...next });
    } else {
      take(`${words}; it is acknowledged`, {
        ...withWriter(state, actor, { at: WriterAt.AcknowledgedEarly }),
        ...acknowledge(state, actor),
        ...next,
      });
    }
  },

  /** Sent before its writer gave up or died. */
  'publishes late'({ protocol, state, actor, take }) {
    const after = AFTER_LATE_PUBLICATION.get(writerAt(state, actor).at);
    if (after === undefined) return;
    take(`writer ${actor} ${verbOf(protocol)}, late`, {
      ...withWriter(state, actor, { at: after }),
      ...published(protocol, state, actor),
    });
  },

  acknowledges({ protocol, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    const isEarly = at === WriterAt.Committed && protocol.publishes === 'after acknowledging';
    if (at !== WriterAt.Published && !isEarly) return;
    take(`writer ${actor} acknowledges version ${version}`, {
      ...withWriter(state, actor, {
        at: isEarly ? WriterAt.AcknowledgedEarly : WriterAt.Acknowledged,
      }),
      ...acknowledge(state, actor),
    });
  },

  'acknowledges after its wait'({ protocol, state, actor, take }) {
    const { at, version } = writerAt(state, actor);
    const isWaiting = at === WriterAt.Waiting || at === WriterAt.WaitingEarly;
    if (!isWaiting || state.hasRows || state.isRowFenced) return;
    const isByHand = protocol.writers[actor - 1] === 'psql';
    const words = isByHand
      ? `version ${version} of psql is owed, its row is gone`
      : `writer ${actor} acknowledges version ${version}, its row is gone`;
    take(words, {
      ...withWriter(state, actor, {
        at: at === WriterAt.Waiting ? WriterAt.Acknowledged : WriterAt.AcknowledgedEarly,
      }),
      ...acknowledge(state, actor),
    });
  },

  dies({ protocol, state, actor, take }) {
    const { at } = writerAt(state, actor);
    const after = AFTER_DEATH.get(at);
    if (after === undefined || state.left.crashes === 0) return;
    if (protocol.writers[actor - 1] === 'psql') return;
    take(`writer ${actor} dies`, {
      ...withWriter(state, actor, {
        at: after,
        version: isCommitted(after) ? writerAt(state, actor).version : 0,
        isUnfenced: false,
      }),
      lock: state.lock === actor ? 0 : state.lock,
      ...spend(state, 'crashes'),
    });
  },
};

const AFTER_LATE_PUBLICATION: ReadonlyMap<WriterAt, WriterAt> = new Map([
  [WriterAt.AcknowledgedEarly, WriterAt.Acknowledged],
  [WriterAt.WaitingEarly, WriterAt.Waiting],
  [WriterAt.Died, WriterAt.DiedPublished],
]);

const AFTER_DEATH: ReadonlyMap<WriterAt, WriterAt> = new Map([
  [WriterAt.Locked, WriterAt.Over],
  [WriterAt.Fenced, WriterAt.Over],
  [WriterAt.Ready, WriterAt.Over],
  [WriterAt.Committed, WriterAt.Died],
  [WriterAt.Published, WriterAt.DiedPublished],
  [WriterAt.RolledBack, WriterAt.Over],
  [WriterAt.WaitingEarly, WriterAt.Died],
]);

function offerSql({ protocol, state, actor, take }: Turn, after: WriterAt): void {
  if (state.lock !== 0) return;
  const kind = protocol.writers[actor - 1];
  const isFenced = writerAt(state, actor).at === WriterAt.Fenced;
  if ((kind === 'insert') === isMissing(protocol, state.row)) {
    const version = versionOf(state, state.row) + 1;
    take(`writer ${actor}: ${kind} in the row's lock takes version ${version}`, {
      ...withWriter(state, actor, { at: after, version }),
      lock: actor,
    });
  } else {
    take(`writer ${actor}: ${kind} finds ${kind === 'insert' ? 'a' : 'no'} row, ROLLBACK`, {
      ...withWriter(state, actor, { at: isFenced ? WriterAt.RolledBack : WriterAt.Over }),
    });
  }
}

function published(
  protocol: Protocol,
  state: State,
  actor: number,
): { cell: Cell; generation: number } {
  const { cell, generation } = state;
  if (protocol.scheme === 'generation') return { cell: ABSENT, generation: generation + 1 };
  if (protocol.scheme === 'aside') return { cell: ABSENT, generation: 0 };
  if (protocol.afterCommit === 'unfence') {
    return { cell: unfence(protocol, cell, actor), generation: 0 };
  }
  const { version } = writerAt(state, actor);
  const entry = protocol.key === 'row' ? entryOf(protocol, actor, version) : undefined;
  return { cell: publish(protocol, cell, actor, entry), generation: 0 };
}

function verbOf({ scheme, afterCommit }: Protocol): string {
  if (scheme !== 'fenced') return 'DELs the key';
  return afterCommit === 'unfence' ? 'unfences' : 'publishes';
}

/** Writers of one kind are alike until they begin, so they begin in their order. */
function mayBegin(protocol: Protocol, { writers }: State, number: number): boolean {
  if (writers[number - 1]?.at !== WriterAt.Idle) return false;
  const kind = protocol.writers[number - 1];
  return protocol.writers
    .slice(0, number - 1)
    .every((earlier, index) => earlier !== kind || writers[index]?.at !== WriterAt.Idle);
}
