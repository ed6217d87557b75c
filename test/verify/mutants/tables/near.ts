/** Near caches: leases, revocations, the list of nodes. */
import type { Mutant } from '../mutant.js';

const member = {
  file: 'src/platform/cache/near/near-member.ts',
  specs: ['test/platform/cache/near/near-member.spec.ts'],
};
const reads = {
  file: 'src/platform/cache/near/near-reads.ts',
  specs: ['test/platform/cache/near/near-reads.spec.ts'],
};
const entries = {
  file: 'src/platform/cache/near/near-entries.ts',
  specs: ['test/platform/cache/near/near-entries.spec.ts'],
};
const epoch = {
  file: 'src/platform/cache/store/epoch-store.ts',
  specs: ['test/platform/cache/store/epoch-store.spec.ts'],
};
const list = {
  file: 'src/platform/cache/store/redis/redis-scripts.ts',
  specs: ['test/platform/cache/store/redis/redis-near-list.spec.ts'],
};

export const NEAR_MUTANTS: readonly Mutant[] = [
  {
    ...member,
    name: 'near-lease-never-ends',
    without: 'a node answers from its memory though it has not renewed its lease',
    text: 'return isRunning && Math.abs',
    replacement: 'return (isRunning || true) && Math.abs',
  },
  {
    ...member,
    name: 'near-lease-ignores-suspension',
    without: 'a lease outlasts a suspension of the machine, during which one clock stands',
    text: 'return isRunning && Math.abs(Date.now() - lease.wallAt) < nearLeaseMs;',
    replacement: 'return isRunning;',
  },
  {
    ...member,
    name: 'near-lease-from-the-reply',
    without: 'a lease counts from the reply to its renewal',
    text: 'if (this.carriedOut >= found.count) this.holdLease(start);',
    replacement:
      'if (this.carriedOut >= found.count) this.holdLease({ at: this.now(), wallAt: Date.now() });',
  },
  {
    ...member,
    name: 'near-lease-with-missing-revocations',
    without: 'a lease is renewed though a numbered revocation has not arrived',
    text: 'if (this.carriedOut >= found.count) this.holdLease(start);',
    replacement: 'if (found.count >= 0) this.holdLease(start);',
  },
  {
    ...member,
    name: 'near-gap-in-the-numbers',
    without: 'a node goes on when a number is missing among the revocations',
    text: 'if (number > this.carriedOut + 1) {',
    replacement: 'if (number > this.carriedOut + 1_000_000) {',
  },
  {
    ...member,
    name: 'near-memory-in-a-new-list',
    without: 'a node keeps its memory when the list of nodes was lost',
    text: '      this.options.memory.clear();\n      this.listId = found.id;',
    replacement: '      this.listId = found.id;',
  },
  {
    ...member,
    name: 'near-memory-without-a-listener',
    without: 'a node keeps its memory when it has lost the connection for revocations',
    text: '    memory.clear();\n    onLease?.(false);',
    replacement: '    onLease?.(false);',
  },
  {
    ...member,
    name: 'near-revocation-carried-out-later',
    without: 'a node confirms a revocation and keeps the keys',
    text: '    memory.drop(revocation.keys);\n',
    replacement: '',
  },
  {
    ...member,
    name: 'near-revocation-without-a-wait',
    without: 'a write does not wait for the nodes to confirm',
    text: 'this.now() + timings.nearWaitMs);',
    replacement: 'this.now());',
  },
  {
    ...member,
    name: 'near-list-taken-for-whole',
    without: 'a write trusts a list of nodes that was found new',
    text: 'if (isWhole) this.awaited',
    replacement: 'if (isWhole || nodes) this.awaited',
  },
  {
    ...member,
    name: 'near-list-whole-at-once',
    without: 'a list counts as whole as soon as it is there',
    text: 'const isOldEnough = this.now() - newList.since >= this.options.timings.nearWaitMs;',
    replacement: 'const isOldEnough = this.now() - newList.since >= 0;',
  },
  {
    ...list,
    name: 'near-removal-without-a-compare',
    without: 'a node that has renewed is removed from the list',
    text: "if redis.call('HGET', key, field) == ARGV[3] then redis.call('HDEL', key, field) end",
    replacement: "redis.call('HDEL', key, field)",
  },
  {
    ...list,
    name: 'near-list-is-born-whole',
    without: 'a new list of nodes counts as whole',
    text: "state = 'p' .. ARGV[1]\n",
    replacement: "state = 'w' .. ARGV[1]\n",
  },
  {
    ...list,
    name: 'near-any-list-is-whole',
    without: 'a list becomes whole by what was known of another one',
    text: "if state == 'p' .. ARGV[4] then\n  state = 'w' .. ARGV[4]",
    replacement: "if ARGV[4] ~= '' then\n  state = 'w' .. string.sub(state, 2)",
  },
  {
    ...entries,
    name: 'near-fill-after-a-revocation',
    without: 'a fill that is under way outlasts a revocation of its key',
    text: 'this.drops[counterOf(key)]!++;\n',
    replacement: '',
  },
  {
    ...entries,
    name: 'near-fill-after-clearing',
    without: 'a fill that is under way outlasts the clearing of the memory',
    text: 'this.clears++;\n',
    replacement: '',
  },
  {
    ...reads,
    name: 'near-read-without-a-lease',
    without: 'a node answers from its memory without a lease',
    text: 'if (!store.near?.hasLease) return undefined;\n    return values.map((value) => {',
    replacement: 'return values.map((value) => {',
  },
  {
    ...reads,
    name: 'near-fill-without-a-lease',
    without: 'a node fills its memory without a lease',
    text: 'if (!store.near?.hasLease) return;',
    replacement: '',
  },
  {
    ...epoch,
    name: 'near-fence-without-a-revocation',
    without: 'a write fences its keys and leaves them in the memories of nodes',
    text: '      await this.near?.revoke(keys);\n',
    replacement: '',
  },
  {
    ...epoch,
    name: 'near-revocation-before-the-fence',
    without: 'a write revokes its keys before they are fenced',
    text: '      await this.store.fence(this.namesOf(keys), token, ms);\n',
    replacement:
      '      await this.near?.revoke(keys);\n' +
      '      await this.store.fence(this.namesOf(keys), token, ms);\n      return;\n',
  },
  {
    ...epoch,
    name: 'near-lost-fence-is-ignored',
    without: 'a publication that finds its fence lost revokes nothing',
    text: '      await this.near.revoke(lost.map(({ key }) => key));\n',
    replacement: '',
  },
  {
    ...epoch,
    name: 'near-partial-deletion-is-ignored',
    without: 'nothing is revoked when some of the deleted keys were not reached',
    text: '      const { results, failure } = await outcomeOf(publish);\n',
    replacement:
      '      const { results, failure } = await outcomeOf(publish);\n' +
      '      if (failure) throw failure;\n',
  },
  {
    file: 'src/platform/cache/store/guarded-store.ts',
    specs: ['test/platform/cache/near/near-caches.spec.ts'],
    tests: 'other near caches',
    name: 'near-caches-not-agreed',
    without: 'nodes share a cache though only some of them revoke keys',
    text: 'return identity === undefined ? undefined : identity + this.agreement();',
    replacement: 'return identity;',
    isSlow: true,
  },
  {
    file: 'src/platform/cache/store/memory-store.ts',
    specs: ['test/platform/cache/store/memory-store.spec.ts'],
    name: 'publication-hides-a-lost-fence',
    without: 'a publication says that its fence was there though it was lost',
    text: '    return isTokenFound;\n',
    replacement: '    return true;\n',
  },
];
