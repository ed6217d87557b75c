/**
 * The near caches of this process: which entities have one, what it holds, and this node's part in
 * the epoch that it uses (docs/design/cache-protocol.md, "The near cache"). Without Redis there is
 * none: the whole cache is in this process's memory then.
 */
import { Inject, Injectable, Logger } from '@nestjs/common';
import { CacheMetrics } from '../cache-metrics.js';
import { CACHE_TIMINGS, type CacheTimings } from '../cache-timings.js';
import { NearEntries, type NearOptions } from './near-entries.js';
import type { NearList } from './near-list.js';
import { NearMember } from './near-member.js';

@Injectable()
export class NearCache {
  private readonly logger = new Logger('Cache');
  /** By the entity's name. */
  private readonly entries = new Map<string, NearEntries>();
  /**
   * What nodes must agree on that have near caches: part of the identity of their cache. A node
   * with other near caches or none, or of an older release, does not revoke what these nodes keep:
   * it has another cache for the protocol, and reads PostgreSQL while they are registered.
   */
  agreement = '';

  constructor(
    @Inject(CACHE_TIMINGS) private readonly timings: CacheTimings,
    private readonly metrics: CacheMetrics,
  ) {}

  /** Call it before the first node of this process joins an epoch. */
  add(entity: string, options: NearOptions): NearEntries {
    const entries = new NearEntries(options);
    this.entries.set(entity, entries);
    const { nearLeaseMs, nearWaitMs } = this.timings;
    this.agreement = `|near ${nearLeaseMs}/${nearWaitMs} ${[...this.entries.keys()].sort().join()}`;
    this.metrics.watchNearEntries(entity, () => entries.size);
    return entries;
  }

  /** Begins this node's part in an epoch, with empty memories and without a lease. */
  join(list: NearList | undefined, epoch: string): NearMember | undefined {
    if (!list || this.entries.size === 0) return undefined;
    const member = new NearMember({
      list,
      name: `${epoch}:near`,
      timings: this.timings,
      memory: {
        isNear: (key) => this.entries.has(entityOf(key)),
        drop: (keys) => {
          for (const key of keys) this.entries.get(entityOf(key))?.drop(key);
        },
        clear: () => {
          for (const entries of this.entries.values()) entries.clear();
        },
      },
      onLease: (isHeld) => this.metrics.setNearLease(isHeld),
      onWait: (seconds) => this.metrics.observeNearWait(seconds),
      onError: (error) => this.logger.debug(`Near cache: ${String(error)}`),
    });
    member.start();
    return member;
  }
}

/** A cache key begins with its entity's name: see CachedEntity.keyPrefix. */
const entityOf = (key: string): string => key.slice(0, key.indexOf(':'));
