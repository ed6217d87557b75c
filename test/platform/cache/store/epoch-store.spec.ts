/** One epoch's view of a cache: its own keys, and no step on another cache. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  type CacheSteps,
  CacheUnavailableError,
  deleteKeys,
  PartiallyUnavailableError,
} from '../../../../src/platform/cache/store/cache-store.js';
import type { NearMember } from '../../../../src/platform/cache/near/near-member.js';
import { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { show } from './store-contract.js';

const LONG_MS = 60_000;
const VALUE = { key: 'k', version: 1, payload: 'old', ttlMs: LONG_MS };

/** A store whose address leads to another cache when the test says so. */
class SwitchedStore extends MemoryStore {
  currentIdentity: string | undefined = 'first';
  /** Commands that reached the store. */
  commands = 0;
  /** Called when a command has been executed, before its answer. */
  onExecuted: () => void = () => undefined;

  override get identity(): string | undefined {
    return this.currentIdentity;
  }

  override async get(...args: Parameters<MemoryStore['get']>): ReturnType<MemoryStore['get']> {
    return this.count(super.get(...args));
  }

  override async lease(
    ...args: Parameters<MemoryStore['lease']>
  ): ReturnType<MemoryStore['lease']> {
    return this.count(super.lease(...args));
  }

  override async fill(...args: Parameters<MemoryStore['fill']>): ReturnType<MemoryStore['fill']> {
    return this.count(super.fill(...args));
  }

  override async replace(
    ...args: Parameters<MemoryStore['replace']>
  ): ReturnType<MemoryStore['replace']> {
    return this.count(super.replace(...args));
  }

  override async fence(...args: Parameters<MemoryStore['fence']>): Promise<void> {
    return this.count(super.fence(...args));
  }

  override async publish(
    ...args: Parameters<MemoryStore['publish']>
  ): ReturnType<MemoryStore['publish']> {
    return this.count(super.publish(...args));
  }

  override async unfence(...args: Parameters<MemoryStore['unfence']>): Promise<void> {
    return this.count(super.unfence(...args));
  }

  private async count<T>(command: Promise<T>): Promise<T> {
    this.commands++;
    const result = await command;
    this.onExecuted();
    return result;
  }
}

const STEPS: Readonly<Record<string, (store: CacheSteps) => Promise<unknown>>> = {
  get: (store) => store.get(['k']),
  lease: (store) => store.lease(['k'], 'reader', LONG_MS),
  fill: (store) => store.fill('reader', [VALUE]),
  replace: (store) => store.replace([{ ...VALUE, seen: VALUE }]),
  fence: (store) => store.fence(['k'], 'writer', LONG_MS),
  publish: (store) => store.publish('writer', [VALUE]),
  unfence: (store) => store.unfence(['k'], 'writer'),
};
const STEP_NAMES = Object.keys(STEPS);

let cache: SwitchedStore;
let epoch: EpochStore;

beforeEach(() => {
  cache = new SwitchedStore();
  epoch = new EpochStore(cache, { id: 'e1', cache: 'first' });
});

const rejectionOf = async (step: Promise<unknown>): Promise<unknown> =>
  step.then(
    () => 'it resolved',
    (error: unknown) => error,
  );

it('an epoch does not read what another epoch of the same cache has stored', async () => {
  await epoch.lease(['k'], 'reader', LONG_MS);
  await epoch.fill('reader', [VALUE]);
  const next = new EpochStore(cache, { id: 'e2', cache: 'first' });
  expect([(await epoch.get(['k'])).map(show), (await next.get(['k'])).map(show)]).toEqual([
    ['old@1'],
    ['absent'],
  ]);
});

describe.each(STEP_NAMES)('the step %s', (name) => {
  const step = (): Promise<unknown> => STEPS[name]!(epoch);

  it.each([['another cache'], [undefined]])('is not sent to %s', async (identity) => {
    cache.currentIdentity = identity;
    expect(await rejectionOf(step())).toBeInstanceOf(CacheUnavailableError);
    expect(cache.commands).toBe(0);
  });

  it('is not sent while the epoch may not be used', async () => {
    epoch = new EpochStore(cache, { id: 'e1', cache: 'first' }, () => false);
    expect(await rejectionOf(step())).toBeInstanceOf(CacheUnavailableError);
    expect(cache.commands).toBe(0);
  });

  it('does not count when the address leads to another cache meanwhile', async () => {
    cache.onExecuted = () => {
      cache.currentIdentity = 'another cache';
    };
    expect(await rejectionOf(step())).toBeInstanceOf(CacheUnavailableError);
    expect(cache.commands).toBe(1);
  });
});

it('a publication that reached some keys names the others as the caller knows them', async () => {
  cache.publish = async (_token, publications) => {
    throw new PartiallyUnavailableError('one server is gone', [publications[1]!.key]);
  };
  const publishing = epoch.publish('writer', [VALUE, { key: 'lost', absent: true }]);
  expect(await rejectionOf(publishing)).toMatchObject({ keys: ['lost'] });
});

describe('an epoch with near caches', () => {
  const revoked: string[][] = [];
  let onRevoke: () => void;
  const near = {
    revoke: async (keys: readonly string[]) => {
      onRevoke();
      revoked.push([...keys]);
    },
  } as unknown as NearMember;

  beforeEach(() => {
    revoked.length = 0;
    onRevoke = () => undefined;
    epoch = new EpochStore(cache, { id: 'e1', cache: 'first' }, undefined, near);
  });

  it('revokes the keys of a fence when they are fenced', async () => {
    const commands: number[] = [];
    onRevoke = () => commands.push(cache.commands);
    await epoch.fence(['k', 'l'], 'writer', LONG_MS);
    expect([revoked, commands]).toEqual([[['k', 'l']], [1]]);
  });

  it('counts no fence whose revocation fails', async () => {
    onRevoke = () => {
      throw new CacheUnavailableError('gone');
    };
    expect(await rejectionOf(epoch.fence(['k'], 'writer', LONG_MS))).toBeInstanceOf(
      CacheUnavailableError,
    );
  });

  it('counts no fence whose cache changes while it is revoked', async () => {
    onRevoke = () => {
      cache.currentIdentity = 'another cache';
    };
    expect(await rejectionOf(epoch.fence(['k'], 'writer', LONG_MS))).toBeInstanceOf(
      CacheUnavailableError,
    );
  });

  it('revokes what is published without its fence, and only that', async () => {
    await epoch.fence(['k'], 'writer', LONG_MS);
    await epoch.publish('writer', [VALUE, { key: 'l', absent: true }]);
    expect(revoked).toEqual([['k'], ['l']]);
  });

  it('revokes the keys that are deleted', async () => {
    await deleteKeys(epoch, ['k', 'l']);
    expect(revoked).toEqual([['k', 'l']]);
  });

  it('revokes the keys that were reached when others were not', async () => {
    cache.publish = async (_token, publications) => {
      throw new PartiallyUnavailableError('one server is gone', [publications[1]!.key]);
    };
    const error = await rejectionOf(deleteKeys(epoch, ['k', 'l']));
    expect(error).toBeInstanceOf(PartiallyUnavailableError);
    expect(revoked).toEqual([['k']]);
  });

  it('leaves the near caches alone for entries that nobody can read', async () => {
    await epoch.discard(['k']);
    expect(revoked).toEqual([]);
  });
});
