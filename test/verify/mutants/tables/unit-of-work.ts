/** The one place that commits. */
import { lines, type Mutant } from '../mutant.js';

const unitOfWork = {
  file: 'src/platform/database/unit-of-work.ts',
  specs: ['test/platform/database/unit-of-work.spec.ts'],
};
const transaction = {
  file: 'src/platform/database/transaction.ts',
  specs: ['test/platform/database/unit-of-work.spec.ts'],
};
const broken = ['test/platform/database/broken-connections.spec.ts'];

export const UNIT_OF_WORK_MUTANTS: readonly Mutant[] = [
  {
    ...unitOfWork,
    name: 'commit-before-the-fences',
    without: 'COMMIT is sent before every fence has an answer',
    text: 'const isFenced = await invalidation.awaitFences();',
    replacement: lines(
      'const isFenced = true as boolean;',
      '      void invalidation.awaitFences().catch(() => undefined);',
    ),
  },
  {
    ...unitOfWork,
    name: 'publication-not-awaited',
    without: 'a write is acknowledged before it is published',
    text: 'await invalidation.publish(connection.confirmedFences);',
    replacement: 'void invalidation.publish(connection.confirmedFences).catch(() => undefined);',
  },
  {
    ...unitOfWork,
    name: 'unfenced-keys-not-left-to-the-database',
    without: 'a transaction that could not fence declares that it has',
    text: 'if (!isFenced && declaration !== undefined) await connection.leaveKeysToDatabase();',
    replacement: 'void [isFenced, declaration];',
  },
  {
    ...unitOfWork,
    name: 'old-transaction-commits',
    without: 'a transaction commits although its fences may have expired',
    text: '      this.requireYoung(startedAt);',
    replacement: '      void startedAt;',
  },
  {
    ...unitOfWork,
    name: 'rollback-taken-for-success',
    without: 'a COMMIT that PostgreSQL answers with ROLLBACK counts as committed',
    text: "if (command === 'COMMIT') return { state: 'committed' };",
    replacement: "if (command !== '') return { state: 'committed' };",
  },
  {
    ...unitOfWork,
    name: 'open-transaction-returned-to-the-pool',
    without: 'a connection goes back to the pool although its transaction may be open',
    text: 'if (!this.isTransactionOver) void this.client.end().catch(() => undefined);',
    replacement: '',
    specs: broken,
  },
  {
    ...unitOfWork,
    name: 'lost-commit-counts-as-refused',
    without: 'a COMMIT whose connection broke counts as rolled back',
    text: 'const isRefused = sqlState !== undefined && !OUTCOME_UNKNOWN.test(sqlState);',
    replacement: 'const isRefused = sqlState === undefined || !OUTCOME_UNKNOWN.test(sqlState);',
    specs: broken,
  },
  {
    ...unitOfWork,
    name: 'terminated-commit-counts-as-refused',
    without: 'a COMMIT whose backend was terminated counts as rolled back',
    text: 'const isRefused = sqlState !== undefined && !OUTCOME_UNKNOWN.test(sqlState);',
    replacement: 'const isRefused = sqlState !== undefined;',
    specs: broken,
  },
  {
    ...unitOfWork,
    name: 'failure-not-rolled-back',
    without: 'a transaction whose work throws is committed',
    text: lines('      await connection.rollBack();', '      await invalidation.release();'),
    replacement: lines('      await connection.commit();', '      await invalidation.release();'),
  },
  {
    ...unitOfWork,
    name: 'rejection-does-not-invalidate',
    without: 'a 404 or 412 shows a write that other nodes do not show yet',
    text: 'if (isAnswer) await this.invalidation.invalidate(invalidation.touchedKeys);',
    replacement: 'void isAnswer;',
  },
  {
    ...unitOfWork,
    name: 'conflict-does-not-invalidate',
    without: 'a 409 about an existing row shows a write that other nodes do not show yet',
    text: ': CONSTRAINT_VIOLATION.test(sqlState);',
    replacement: ': CONSTRAINT_VIOLATION.test(`${sqlState.length}`);',
  },
  {
    ...transaction,
    name: 'locked-row-not-observed',
    without: 'a rejection because of a locked row does not invalidate that row',
    text: '    this.observe(entity, id);',
    replacement: '',
  },
  {
    ...transaction,
    name: 'update-of-any-version',
    without: 'an update overwrites the change of another writer',
    text: lines(
      "      .where('id = :id AND version = :version', { id, version });",
      '    const { raw } =',
    ),
    replacement: lines("      .where('id = :id', { id });", '    const { raw } ='),
  },
  {
    ...transaction,
    name: 'remove-of-any-version',
    without: 'a removal deletes the change of another writer',
    text: lines(
      "      .where('id = :id AND version = :version', { id, version })",
      '      .execute();',
    ),
    replacement: lines("      .where('id = :id', { id })", '      .execute();'),
  },
  {
    ...transaction,
    name: 'removal-without-a-version',
    without: 'the negative entry of a deleted row has the version of the row',
    text: 'this.invalidation.recordChange(entity, before, null, version + 1);',
    replacement: 'this.invalidation.recordChange(entity, before, null, version);',
  },
];
