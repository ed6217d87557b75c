/** Which Redis server answers, in which of its incarnations. */
import { lines, type Mutant } from '../mutant.js';

const FOLDER = 'src/platform/cache/store/redis';
const INCARNATIONS = ['test/platform/cache/store/redis/redis-incarnations.spec.ts'];
const WITNESS = ['test/platform/cache/store/redis/incarnation-witness.spec.ts'];

const witness = {
  file: `${FOLDER}/incarnation-witness.ts`,
  specs: INCARNATIONS,
  tests: '^one server',
};
const sentinels = {
  file: `${FOLDER}/redis-sentinels.ts`,
  specs: INCARNATIONS,
  tests: '^Sentinels',
  isSlow: true,
};

export const REDIS_MUTANTS: readonly Mutant[] = [
  {
    ...witness,
    name: 'no-incarnation-witness',
    without: 'a reply counts although the server has begun another incarnation',
    text: 'if (certifiedPrefix !== prefix) throw new IncarnationChangedError();',
    replacement: 'void certifiedPrefix;',
  },
  {
    ...witness,
    name: 'witness-asks-before-the-command',
    without: 'the incarnation is asked for before a command, not after it',
    specs: WITNESS,
    tests: '^a command',
    text: 'const [reply, certifiedPrefix] = await Promise.all([send(prefix), certificate]);',
    replacement: lines(
      'const certifiedPrefix = await certificate;',
      '    const reply = await send(prefix);',
    ),
  },
  {
    ...witness,
    name: 'incarnation-without-replication-id',
    without: 'an incarnation is a process: a demotion and a promotion do not end it',
    text: '`hf:${identity.runId}.${fact}:`',
    replacement: '`hf:${identity.runId}.0:`',
  },
  {
    ...witness,
    name: 'incarnation-not-in-the-key',
    without: 'keys do not name the incarnation of their server',
    text: '`hf:${identity.runId}.${fact}:`',
    replacement: "'hf:0000000000000000.0:'",
    specs: ['test/platform/cache/guards.spec.ts'],
    tests: 'with the incarnation',
  },
  {
    ...witness,
    name: 'replica-is-used',
    without: 'a replica counts as a master',
    text: 'const isMaster = options.isClustered || IS_MASTER.test(info);',
    replacement: 'const isMaster = true;',
  },
  {
    name: 'script-sent-again-to-another-incarnation',
    without: 'a script that the server has lost is sent again without a look at the incarnation',
    file: `${FOLDER}/redis-node.ts`,
    text: 'if (currentPrefix !== prefix) throw new IncarnationChangedError();',
    replacement: 'void currentPrefix;',
    specs: WITNESS,
    tests: 'a script that the server has lost',
  },
  {
    ...sentinels,
    name: 'no-sentinel-lease',
    without: 'a master is used for ever after the Sentinels have named it',
    text: 'performance.now() < master.usableUntil',
    replacement: 'master.usableUntil > 0',
  },
  {
    ...sentinels,
    name: 'one-sentinel-decides',
    without: 'one Sentinel names the master without a majority',
    text: 'agreeing.length > reports.length / 2',
    replacement: 'agreeing.length > 0',
  },
  {
    name: 'database-number-ignored',
    without: 'two databases of one Redis count as one cache',
    file: `${FOLDER}/redis-topology.ts`,
    text: '`${node.prefix}${target.database}`',
    replacement: '`${node.prefix}0`',
    specs: ['test/platform/cache/epoch/membership.spec.ts'],
    tests: 'database 0 and database 1',
  },
  {
    name: 'every-memory-is-one-cache',
    without: 'the memories of two processes count as one cache',
    file: 'src/platform/cache/store/memory-store.ts',
    text: '`memory:${randomUUID()}`',
    replacement: "'memory'",
    specs: ['test/platform/cache/epoch/membership.spec.ts'],
    tests: 'memory and memory',
  },
  {
    name: 'every-cluster-is-one-cache',
    without: 'the identity of a Cluster does not change with its masters and their slots',
    file: `${FOLDER}/redis-cluster.ts`,
    text: "`cluster:${hash('sha256', masters.sort().join('\\n')).slice(0, 16)}`",
    replacement: "`cluster:${hash('sha256', String(masters.length === 0)).slice(0, 16)}`",
    specs: INCARNATIONS,
    tests: 'a slot moves to another master and back',
    isSlow: true,
  },
  {
    name: 'moved-slot-leaves-the-identity',
    without: 'a Cluster keeps its identity after a MOVED reply',
    file: `${FOLDER}/redis-cluster.ts`,
    text: lines('    this.knownIdentity = undefined;', '    this.loop.wake();'),
    replacement: '    this.loop.wake();',
    specs: INCARNATIONS,
    tests: 'a key has moved',
    isSlow: true,
  },
  {
    name: 'lost-publication-counts',
    without: 'a publication that reached only some servers counts as complete',
    file: `${FOLDER}/redis-store.ts`,
    text: 'if (!firstFailure) {',
    replacement: 'if (!firstFailure || failures.length < calls.length) {',
    specs: ['test/platform/cache/write/database-invalidations.spec.ts'],
    tests: 'a row with keys of both kinds',
    isSlow: true,
  },
];
