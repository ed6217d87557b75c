/** What happens to nobody in particular: keys expire and are flushed, PostgreSQL fails over. */
import { ABSENT, expire } from '../scripts.js';
import { NO_ROWS_TAKEN, type State, versionOf, type Writer, WriterAt, writerAt } from './state.js';
import { showPlace, spend, type Steps, withCell } from './turn.js';

export const ENVIRONMENT_STEPS: Steps = {
  'a key ends'({ setup, state, take }) {
    state.cells.forEach((cell, index) => {
      const place = index + 1;
      const where = showPlace(setup, place);
      if (cell.is === 'entry' || cell.is === 'lease') {
        take(`the ${cell.is} in ${where} expires`, withCell(state, place, ABSENT));
      }
      if (cell.is !== 'fence') return;
      const [first] = cell.tokens as [number];
      if (hasEnded(writerAt(state, first))) {
        const expired = withCell(state, place, expire(setup.parts, cell));
        take(`the fence of writer ${first} in ${where} ends`, expired);
      } else if (state.left.flushes > 0) {
        take(`the fence in ${where} is flushed`, {
          ...withCell(state, place, ABSENT),
          ...spend(state, 'flushes'),
        });
      }
    });
  },

  'the replica copies for the last time'({ state, take }) {
    if (state.left.promotions === 0 || state.replica) return;
    take('the replica of PostgreSQL copies for the last time', { replica: state.database });
  },

  'the replica is promoted'({ state, take }) {
    const { replica } = state;
    if (state.left.promotions === 0 || !replica) return;
    const survivingVersion = versionOf(state, replica.author);
    take(`the replica is promoted, with version ${survivingVersion}`, {
      database: replica,
      replica: undefined,
      primary: 1,
      survivingVersion,
      acknowledged: Math.min(state.acknowledged, survivingVersion),
      // What was open on the other server is over, and nobody is told.
      writers: state.writers.map((writer) =>
        isInTransaction(writer) ? { ...writer, at: WriterAt.Over, place: 0 } : writer,
      ),
      nodes: state.nodes.map((node) => ({ ...node, ...NO_ROWS_TAKEN, isMoving: false })),
      readers: state.readers.map((reader) => ({
        ...reader,
        since: Math.min(reader.since, survivingVersion),
      })),
      ...spend(state, 'promotions'),
    } satisfies Partial<State>);
  },
};

/** Its fence may end at its deadline; before, PostgreSQL would have ended its transaction. */
const hasEnded = ({ at }: Writer): boolean => at >= WriterAt.Waiting;

const isInTransaction = ({ at }: Writer): boolean =>
  at === WriterAt.Fenced ||
  at === WriterAt.Unfenced ||
  at === WriterAt.Checked ||
  at === WriterAt.Unanswered;
