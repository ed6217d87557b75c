/**
 * A cache as one epoch uses it (docs/design/cache-protocol.md, "Membership"): every key carries the
 * epoch, and a step counts only if the store was the epoch's cache from its beginning to its end.
 * Cache identities never come twice, so the same one before and after is the same one throughout.
 */
import type { NearMember } from '../near/near-member.js';
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheSteps,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  newToken,
  PartiallyUnavailableError,
} from './cache-store.js';

/** One epoch: all nodes that are registered for it use the same cache. */
export interface CacheEpoch {
  /** Random: no epoch comes twice. */
  readonly id: string;
  /** The cache's {@link CacheStore.identity}. */
  readonly cache: string;
}

export class EpochStore implements CacheSteps {
  /**
   * @param isUsable asked before each step, in the turn that sends it
   */
  constructor(
    private readonly store: CacheStore,
    readonly epoch: CacheEpoch,
    private readonly isUsable: () => boolean = () => true,
    /** This node's part in the near caches of the epoch; undefined when there are none. */
    readonly near?: NearMember,
  ) {}

  get isAvailable(): boolean {
    return this.store.identity === this.epoch.cache && this.isUsable();
  }

  get(keys: readonly string[]): Promise<CacheEntry[]> {
    return this.step(() => this.store.get(this.namesOf(keys)));
  }

  lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    return this.step(() => this.store.lease(this.namesOf(keys), token, ms));
  }

  fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    return this.step(() => this.store.fill(token, values.map(this.withName)));
  }

  replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    return this.step(() => this.store.replace(replacements.map(this.withName)));
  }

  fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    return this.step(async () => {
      await this.store.fence(this.namesOf(keys), token, ms);
      // Only now no node can fill what it drops.
      await this.near?.revoke(keys);
    });
  }

  /** What was not fenced until now, e.g. keys that are deleted, is revoked after it. */
  publish(token: string, publications: readonly CachePublication[]): Promise<boolean[]> {
    return this.step(async () => {
      const publish = this.store.publish(token, publications.map(this.withName));
      if (!this.near) return publish;
      const { results, failure } = await outcomeOf(publish);
      const unreached = new Set(failure && this.withKeys(failure).keys);
      const lost = publications.filter(
        ({ key }, index) => !results?.[index] && !unreached.has(key),
      );
      await this.near.revoke(lost.map(({ key }) => key));
      if (failure) throw failure;
      return results as boolean[];
    });
  }

  /**
   * Deletes entries that nobody can read, and the leases on them. Their rows have not changed, so
   * what near caches have under these keys stays.
   */
  async discard(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) return;
    const absences = keys.map((key) => ({ key: this.nameOf(key), absent: true as const }));
    await this.step(() => this.store.publish(newToken(), absences));
  }

  unfence(keys: readonly string[], token: string): Promise<void> {
    return this.step(() => this.store.unfence(this.namesOf(keys), token));
  }

  private readonly nameOf = (key: string): string => `${this.epoch.id}:${key}`;

  private readonly withName = <Item extends { readonly key: string }>(item: Item): Item => ({
    ...item,
    key: this.nameOf(item.key),
  });

  private namesOf(keys: readonly string[]): string[] {
    return keys.map(this.nameOf);
  }

  private async step<Reply>(send: () => Promise<Reply>): Promise<Reply> {
    if (!this.isAvailable) throw new CacheUnavailableError('The epoch’s cache may not be used now');
    let reply: Reply;
    try {
      reply = await send();
    } catch (error) {
      throw error instanceof PartiallyUnavailableError ? this.withKeys(error) : error;
    }
    if (this.store.identity !== this.epoch.cache) {
      throw new CacheUnavailableError('The store leads to another cache now');
    }
    return reply;
  }

  /** The error with the caller's keys, without the epoch. */
  private withKeys(error: PartiallyUnavailableError): PartiallyUnavailableError {
    const prefixLength = this.nameOf('').length;
    const keys = error.keys.map((name) => name.slice(prefixLength));
    return new PartiallyUnavailableError(error.message, keys, { cause: error });
  }
}

/** Some keys may be published though others were not reached. */
async function outcomeOf(
  publish: Promise<boolean[]>,
): Promise<{ results?: boolean[]; failure?: PartiallyUnavailableError }> {
  try {
    return { results: await publish };
  } catch (error) {
    if (error instanceof PartiallyUnavailableError) return { failure: error };
    throw error;
  }
}
