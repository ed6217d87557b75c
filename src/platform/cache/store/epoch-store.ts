/**
 * A cache as one epoch uses it (docs/design/cache-protocol.md, "Membership"): every key carries the
 * epoch, and a step counts only if the store was the epoch's cache from its beginning to its end.
 * Cache identities never come twice, so the same one before and after is the same one throughout.
 */
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheSteps,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
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
  /** @param isUsable asked before each step, in the turn that sends it */
  constructor(
    private readonly store: CacheStore,
    readonly epoch: CacheEpoch,
    private readonly isUsable: () => boolean = () => true,
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
    return this.step(() => this.store.fence(this.namesOf(keys), token, ms));
  }

  publish(token: string, publications: readonly CachePublication[]): Promise<void> {
    return this.step(() => this.store.publish(token, publications.map(this.withName)));
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
