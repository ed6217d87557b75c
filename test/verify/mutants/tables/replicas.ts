/** Reads on replicas: which servers may answer, and how old their data is. */
import { lines, type Mutant } from '../mutant.js';

const state = {
  file: 'src/platform/database/replica-state.ts',
  specs: ['test/platform/database/replica-state.spec.ts'],
};
const replicas = {
  file: 'src/platform/database/replicas.ts',
  specs: ['test/platform/database/repeated-reads.spec.ts'],
};

export const REPLICA_MUTANTS: readonly Mutant[] = [
  {
    ...state,
    name: 'replica-that-accepts-writes',
    without: 'a promoted replica answers',
    text: "  if (!server.isInRecovery) return 'is not a replica: it accepts writes';\n",
    replacement: '',
  },
  {
    ...state,
    name: 'replica-of-another-system',
    without: 'a replica of another system answers',
    text: "  if (server.systemId !== primary.systemId) return 'is a replica of another system';\n",
    replacement: '',
  },
  {
    ...state,
    name: 'replica-of-another-timeline',
    without: 'a replica of a primary that was replaced answers',
    text: 'if (server.timeline !== primary.timeline) {',
    replacement: 'if (server.timeline > primary.timeline) {',
  },
  {
    ...state,
    name: 'replica-ahead-of-the-primary',
    without: 'a replica with commits that the primary has lost answers',
    text: 'if (server.position > primary.position) return',
    replacement: 'if (server.position > primary.position + 1_000n) return',
  },
  {
    ...state,
    name: 'replica-of-unknown-age',
    without: 'a replica answers although nobody knows how old its data is',
    text: 'if (!hasAll && server.replayAgeMs === null) {',
    replacement: 'if (!hasAll && server.replayAgeMs === undefined) {',
  },
  {
    ...state,
    name: 'replica-without-its-lag',
    without: 'what a lagging replica answers counts as of now',
    text: 'return askedAt - (server.replayAgeMs ?? Infinity);',
    replacement: 'return askedAt;',
  },
  {
    ...replicas,
    name: 'later-reads-of-any-replica',
    without: 'a later read of one task sees less than the first',
    text: 'if (found && found.position >= minPosition) return found;',
    replacement: 'if (found && minPosition >= 0n) return found;',
  },
  {
    ...replicas,
    name: 'later-reads-of-a-primary-behind',
    without:
      'after a failover that lost commits, a later read of one task sees less than the first',
    text: 'if (current !== undefined) await this.requirePosition(minPosition);',
    replacement: '',
  },
  {
    ...replicas,
    name: 'reads-return-to-a-replica',
    without: 'a task that has read the primary reads a replica that has less',
    text: "        if (current === 'primary') return this.readPrimary(work);\n",
    replacement: "        if (current === 'primary') current = undefined;\n",
  },
  {
    ...replicas,
    name: 'reads-change-their-replica',
    without: 'each read of one task goes to another server',
    text: 'return preferred ? [preferred, ...rotated] : rotated;',
    replacement: 'return preferred ? [...rotated, preferred] : rotated;',
  },
  {
    ...replicas,
    name: 'unfit-replica-asked-at-once',
    without: 'each read waits for replicas that are down',
    text: '    if (problem !== undefined) replica.postpone();\n',
    replacement: '',
  },
  {
    ...replicas,
    name: 'replica-without-its-primary',
    without: 'replicas answer nothing while the primary is gone',
    text: 'return this.primaryState && { ...this.primaryState, position: UNKNOWN_POSITION };',
    replacement: 'return undefined;',
  },
  {
    ...replicas,
    name: 'replica-compared-with-an-old-position',
    without: 'a replica that is ahead of the last known primary is not used while that is gone',
    text: '{ ...this.primaryState, position: UNKNOWN_POSITION }',
    replacement:
      '{ ...this.primaryState, position: this.primaryState.position + 0n * UNKNOWN_POSITION }',
  },
  {
    ...replicas,
    name: 'replica-open-for-writes',
    without: 'a URL that leads to the primary by mistake may write there',
    text: 'extra: { ...(options.extra as object), ...readOnly },',
    replacement: 'extra: { ...(options.extra as object), ...(readOnly && {}) },',
    specs: ['test/platform/database/replicas.spec.ts'],
    isSlow: true,
  },
  {
    ...replicas,
    name: 'primary-asked-before-its-replica',
    without: 'a replica that replays what the primary writes meanwhile counts as ahead of it',
    text: lines(
      '      const state = await replica.readState();',
      '      // Afterwards, so that a replica cannot be ahead of what the primary says.',
      '      const primary = await this.findPrimaryState();',
    ),
    replacement: lines(
      '      const primary = await this.findPrimaryState();',
      '      const state = await replica.readState();',
    ),
  },
];
