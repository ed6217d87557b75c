/** A request that is sent again. */
import type { Mutant } from '../mutant.js';

const service = {
  file: 'src/platform/idempotency/idempotency.service.ts',
  specs: ['test/platform/idempotency/exactly-once.spec.ts'],
};
const http = {
  file: 'src/platform/idempotency/idempotency.service.ts',
  specs: ['test/platform/idempotency/idempotency.spec.ts'],
};

export const IDEMPOTENCY_MUTANTS: readonly Mutant[] = [
  {
    ...service,
    name: 'claim-without-the-lock',
    without: 'two requests with one key run at the same time',
    text: "'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS locked',",
    replacement: "'SELECT $1::text IS NOT NULL AS locked',",
  },
  {
    ...service,
    name: 'claim-without-a-second-look',
    without: 'a key that was committed between the look and the lock is used again',
    text: 'if (committed) return committed;',
    replacement: 'void committed;',
  },
  {
    ...http,
    name: 'fingerprint-not-compared',
    without: 'another request with the same key gets the response of the first',
    text: 'if (fingerprint !== requestFingerprint) throw idempotencyProblems.reused();',
    replacement: 'void [fingerprint, requestFingerprint];',
  },
  {
    ...http,
    name: 'fingerprint-without-the-body',
    without: 'two requests with different bodies count as the same request',
    file: 'src/platform/idempotency/idempotent.decorator.ts',
    text: '[method, path, shown ?? null, headers',
    replacement: '[method, path, typeof shown, headers',
  },
  {
    ...http,
    name: 'fingerprint-of-an-id-in-capitals',
    without: 'a repetition that writes the id in capitals is another request',
    file: 'src/platform/idempotency/idempotent.decorator.ts',
    text: "url.split('?', 1).join().toLowerCase()",
    replacement: "url.split('?', 1).join()",
    tests: 'capitals',
  },
  {
    ...http,
    name: 'fingerprint-with-the-password',
    without: 'a fast hash of the password of a registration is stored',
    file: 'src/platform/idempotency/idempotent.decorator.ts',
    specs: ['test/auth/registration-retries.spec.ts'],
    text: 'members.filter(([name]) => !names.includes(name))',
    replacement: 'members',
  },
  {
    ...http,
    name: 'registration-repeated-with-any-password',
    without: 'who knows a key gets the answer of a registration with another password',
    specs: ['test/auth/registration-retries.spec.ts'],
    text: 'await confirmRepetition?.(subjectId);',
    replacement: 'void [confirmRepetition, subjectId];',
  },
  {
    ...service,
    name: 'repetition-only-acknowledges',
    without: 'a repetition does not invalidate the write that it acknowledges',
    text: 'await this.invalidation.invalidate(cacheKeys);',
    replacement: 'void cacheKeys;',
  },
  {
    ...service,
    name: 'record-without-the-keys',
    without: 'a record does not name the cache keys of its write',
    text: 'cacheKeys: transaction.cacheKeys,',
    replacement: 'cacheKeys: [],',
  },
  {
    ...service,
    name: 'record-in-a-transaction-of-its-own',
    without: 'the record of a key is committed although the write is rolled back',
    text: 'await transaction.manager.insert(IdempotencyRecord, {',
    replacement: 'await transaction.manager.connection.manager.insert(IdempotencyRecord, {',
  },
  {
    ...http,
    name: 'expired-record-replayed',
    without: 'a key is remembered for longer than 24 hours',
    text: "'record.createdAt > now() - make_interval(hours => :hours)'",
    replacement: "'record.createdAt > now() - make_interval(days => :hours)'",
  },
  {
    ...http,
    name: 'key-of-every-user',
    without: 'the key of one user is the key of another',
    text: "'record.ownerId = :ownerId AND record.key = :key'",
    replacement: "'record.key = :key AND :ownerId::uuid IS NOT NULL'",
  },
];
