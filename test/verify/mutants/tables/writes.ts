/** Writes through the cache: fences, publications and what is done when they fail. */
import { lines, type Mutant } from '../mutant.js';

const INVALIDATION = 'src/platform/cache/write/invalidation.ts';
const SERVICE = 'src/platform/cache/write/invalidation.service.ts';
const WAITS = 'src/platform/cache/write/invalidation-waits.ts';
const UNANSWERED = 'src/platform/cache/write/unanswered-commits.ts';

const write = { file: INVALIDATION, specs: ['test/platform/cache/write/write-promises.spec.ts'] };
const waits = { file: WAITS, specs: ['test/platform/cache/write/invalidation-waits.spec.ts'] };
const unitOfWork = { file: INVALIDATION, specs: ['test/platform/database/unit-of-work.spec.ts'] };
const unanswered = {
  file: UNANSWERED,
  specs: ['test/platform/cache/write/unanswered-commits.spec.ts'],
};

export const WRITE_MUTANTS: readonly Mutant[] = [
  {
    ...unitOfWork,
    name: 'fence-does-nothing',
    without: 'a write sets no fence',
    text: 'await store.fence(keys, this.token, fenceMs);',
    replacement: 'void fenceMs;',
  },
  {
    ...unitOfWork,
    name: 'fence-failure-ignored',
    without: 'a write whose fence has failed counts as fenced',
    text: 'this.fenceFailure ??= error;',
    replacement: 'void error;',
  },
  {
    ...unitOfWork,
    name: 'lost-alias-not-fenced',
    without: 'the alias that a row loses stays cached',
    file: 'src/platform/cache/cached-entity.ts',
    text: 'return [...lostKeys, ...gainedKeys];',
    replacement: 'return lostKeys.length > 100 ? lostKeys : gainedKeys;',
  },
  {
    ...unitOfWork,
    name: 'gained-alias-not-fenced',
    without: 'the alias that a row gains stays cached as absent',
    file: 'src/platform/cache/cached-entity.ts',
    text: 'return [...lostKeys, ...gainedKeys];',
    replacement: 'return gainedKeys.length > 100 ? gainedKeys : lostKeys;',
  },
  {
    ...unitOfWork,
    name: 'collection-not-fenced',
    without: 'a list keeps its old members',
    file: 'src/platform/cache/cached-entity.ts',
    text: 'keys.push(this.keyPrefix(by) + String(row[collection.by as keyof E]));',
    replacement: 'void row[collection.by as keyof E];',
  },
  {
    ...write,
    name: 'notices-not-counted',
    without: 'a writer believes that all its changes were found fenced',
    text: 'this.fenceFailure === undefined && confirmedFences >= this.changeCount;',
    replacement: 'this.fenceFailure === undefined && confirmedFences >= 0;',
  },
  {
    ...write,
    name: 'unfenced-write-acknowledged-at-once',
    without: 'a write that was not fenced is acknowledged while nodes still show the old row',
    text: '    await this.context.database.awaitInvalidation(this.keys);',
    replacement: '    if (isFenced) await this.context.database.awaitInvalidation(this.keys);',
  },
  {
    ...write,
    name: 'failed-publication-does-not-wait',
    without: 'a write whose publication failed is acknowledged once its keys are enqueued',
    text: '    await this.context.database.awaitInvalidation(this.keys);',
    replacement: '    if (!isFenced) await this.context.database.awaitInvalidation(this.keys);',
  },
  {
    ...write,
    name: 'failed-publication-not-enqueued',
    without: 'a write whose publication failed leaves its keys to nobody',
    text: 'if (isFenced) await this.enqueueUnpublishedKeys(publishError);',
    replacement: 'void publishError;',
  },
  {
    ...write,
    name: 'unconfirmed-write-acknowledged',
    without: 'a write that could neither publish nor enqueue is acknowledged',
    text: lines('      this.keepFences();', '      throw new UnconfirmedWriteError('),
    replacement: lines('      this.keepFences();', '      void new UnconfirmedWriteError('),
    isSlow: true,
  },
  {
    ...write,
    name: 'unconfirmed-write-loses-its-fences',
    without: 'the fences of a write that could neither publish nor enqueue expire',
    text: lines('      this.keepFences();', '      throw'),
    replacement: '      throw',
    isSlow: true,
  },
  {
    ...unitOfWork,
    name: 'published-without-waiting',
    without: 'a write is acknowledged before its publication has an answer',
    text: '      await this.publishToStore();',
    replacement: '      void this.publishToStore().catch(() => undefined);',
  },
  {
    ...write,
    file: SERVICE,
    name: 'repetition-does-not-check-the-epoch',
    without: 'a repetition deletes the keys in a cache that other nodes do not use any more',
    text: 'return this.database.isCurrent(store);',
    replacement: 'return true;',
  },
  {
    ...write,
    file: SERVICE,
    name: 'repetition-does-not-wait',
    without: 'a repetition that cannot delete the keys enqueues them and acknowledges',
    text: lines(
      '    await this.database.enqueue(keys);',
      '    await this.database.awaitInvalidation(keys);',
    ),
    replacement: '    await this.database.enqueue(keys);',
  },
  {
    ...write,
    file: SERVICE,
    name: 'repetition-deletes-nothing',
    without: 'a repetition believes that the keys are deleted',
    text: 'await deleteKeys(store, keys);',
    replacement: 'void deleteKeys;',
  },
  {
    ...unitOfWork,
    name: 'unanswered-commits-ignored',
    without: 'the fences of a COMMIT without an answer expire',
    text: 'unanswered.watch({ backendPid, store, token: this.token, keys: this.keys });',
    replacement: 'void backendPid;',
    specs: ['test/platform/database/broken-connections.spec.ts'],
    isSlow: true,
  },
  {
    ...unanswered,
    name: 'unanswered-fences-not-renewed',
    without: 'the fences of a watched COMMIT expire at their deadline',
    text: 'await store.fence(keys, token, this.fenceMs).catch(() => undefined);',
    replacement: 'void [store, keys, token];',
  },
  {
    ...unanswered,
    name: 'unanswered-transaction-not-asked-for',
    without: 'a COMMIT counts as over while its transaction is open',
    text: 'const isOver = transaction === undefined || transaction !== commit.transaction;',
    replacement: 'const isOver = true;',
  },
  {
    ...unanswered,
    name: 'unanswered-silence-counts-as-over',
    without: 'a COMMIT counts as over when PostgreSQL cannot be asked',
    text: lines(
      'const openTransactions = await this.findOpenTransactions(commits);',
      '    if (!openTransactions) return;',
    ),
    replacement: lines(
      'const answer = await this.findOpenTransactions(commits);',
      '    const openTransactions = answer ?? new Map<number, string>();',
    ),
  },
  {
    ...unanswered,
    name: 'unanswered-epoch-not-checked',
    without: 'the keys of a COMMIT without an answer are deleted in the cache of a past epoch only',
    text: 'if (await this.database.isCurrent(store)) {',
    replacement: 'if (store) {',
  },
  {
    ...waits,
    name: 'wait-ignores-readers',
    without: 'a wait ends although nodes answer from the cache and rows are waiting',
    text: '(SELECT has_readers OR has_older FROM state)',
    replacement: '(SELECT has_older FROM state)',
  },
  {
    ...waits,
    name: 'wait-ignores-an-older-release',
    without: 'a wait trusts rows that an older release may have deleted without applying them',
    text: 'WHERE is_new_server OR (has_readers AND has_older)',
    replacement: 'WHERE is_new_server',
  },
  {
    ...waits,
    name: 'wait-ignores-older-readers',
    without: 'a wait ends although a node of an older release answers from its cache',
    text: '(SELECT has_readers OR has_older FROM state)',
    replacement: '(SELECT has_readers FROM state)',
  },
  {
    ...waits,
    name: 'wait-ignores-a-new-server',
    without: 'a wait trusts a server that may have lost registrations',
    text: 'WHERE is_new_server OR (has_readers AND has_older)',
    replacement: 'WHERE has_readers AND has_older',
  },
  {
    ...waits,
    name: 'wait-takes-silence-for-yes',
    without: 'a wait ends when PostgreSQL cannot be asked',
    text: 'const isInvalidated = waitingKeys && !waiter.keys.some((key) => waitingKeys.has(key));',
    replacement: 'const isInvalidated = !waiter.keys.some((key) => waitingKeys?.has(key));',
  },
  {
    ...waits,
    name: 'wait-joins-a-running-poll',
    without: 'a wait ends with an answer that PostgreSQL gave before the wait began',
    text: 'for (const waiter of asked) {',
    replacement: 'for (const waiter of this.waiters) {',
  },
  {
    ...waits,
    name: 'wait-has-no-deadline',
    without: 'a wait lasts as long as rows are waiting',
    text: 'if (!isInvalidated && now < waiter.deadline) continue;',
    replacement: 'if (!isInvalidated && now < Infinity) continue;',
    isSlow: true,
  },
];
