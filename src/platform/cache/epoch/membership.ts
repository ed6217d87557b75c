/**
 * Which cache this node may use. All nodes that answer from a cache are registered for one epoch,
 * and an epoch has one cache; a node with another cache reads PostgreSQL
 * (docs/design/cache-protocol.md, "Membership").
 *
 * Invariants: the epoch moves only while no node is registered for it. This node's gate is open
 * only while it is registered. A silent node stays registered until its gate has closed by itself.
 */
import { randomUUID } from 'node:crypto';
import { Inject, Injectable, Logger, Optional } from '@nestjs/common';
import type { Client } from 'pg';
import { CacheMetrics } from '../cache-metrics.js';
import { CACHE_TIMINGS, type CacheTimings } from '../cache-timings.js';
import { CachedEntities } from '../cached-entity.js';
import { NearCache } from '../near/near-cache.js';
import { ReadGate } from '../read/read-gate.js';
import { CACHE_STORE, type CacheStore } from '../store/cache-store.js';
import { EpochStore } from '../store/epoch-store.js';
import { type CacheReader, coversTables, type EpochStatus, EpochTable } from './epoch-table.js';

/** Why a node uses the cache or does not, and what the log and readiness say of it. */
export const MEMBERSHIP_STATES = {
  member: 'uses the cache',
  joining: 'is about to use the cache',
  'no-database': 'PostgreSQL does not answer',
  'no-cache': 'the cache cannot be reached',
  'other-cache': 'other nodes use another cache: is REDIS_URL the same everywhere?',
  'older-release': 'a node of an older release is running, which does not know epochs',
  'migrations-pending': 'the database does not invalidate all that this release caches',
  'new-server': 'PostgreSQL was restarted or replaced: waiting until no node answers from before',
} as const;

export type MembershipState = keyof typeof MEMBERSHIP_STATES;

/** A registration shows life at most this often. */
const MIN_BEAT_INTERVAL_MS = 300;

interface SeenReader {
  readonly beat: number;
  /** When this beat was first seen, by performance.now(). */
  readonly since: number;
}

@Injectable()
export class Membership {
  private readonly logger = new Logger('Cache');
  private currentState: MembershipState = 'joining';
  private store: EpochStore | undefined;
  /**
   * This node in `cache_readers`. A new one for each registration: what arrives late on a broken
   * connection concerns an earlier one.
   */
  private registration: string | undefined;
  /** What every transaction declares before the epoch: see {@link declarationOf}. */
  private declaredKeys = '';
  private lastBeatAt = Number.NEGATIVE_INFINITY;
  private readonly seenReaders = new Map<string, SeenReader>();
  /** The server on which the epoch did not begin, and when it was first seen. */
  private newServer: { readonly server: string; readonly since: number } | undefined;

  constructor(
    @Inject(CACHE_STORE) private readonly cache: CacheStore,
    private readonly gate: ReadGate,
    private readonly entities: CachedEntities,
    private readonly metrics: CacheMetrics,
    @Inject(CACHE_TIMINGS) private readonly timings: CacheTimings,
    @Optional() private readonly near?: NearCache,
  ) {
    metrics.setMembership(this.currentState, Object.keys(MEMBERSHIP_STATES));
  }

  /** `no-cache` as soon as the cache is gone, before the next {@link renew}. */
  get state(): MembershipState {
    const hasLostCache = this.currentState === 'member' && !this.epochStore;
    return hasLostCache ? 'no-cache' : this.currentState;
  }

  /** For a transaction that holds it: nobody can remove it then, and the epoch cannot move. */
  get registrationId(): string | undefined {
    return this.registration;
  }

  /** The cache of the epoch that this node is registered for; undefined while it may use none. */
  get epochStore(): EpochStore | undefined {
    return this.store?.isAvailable ? this.store : undefined;
  }

  /**
   * What a transaction declares to the trigger: the epoch under which it fences, and for each table
   * the keys that this release fences. The trigger enqueues what it does not find there.
   */
  declarationOf({ epoch }: EpochStore): string {
    return `${epoch.id}|${this.declaredKeys}`;
  }

  /**
   * Registers this node, or shows that it is alive, or ends its registration: whatever is right
   * now. One step of a pass, before it looks at `cache_invalidations`.
   * @returns the epoch's cache, if this node is registered for it
   * @throws a driver error
   */
  async renew(client: Client): Promise<EpochStore | undefined> {
    const table = new EpochTable(client);
    const status = await table.readStatus();
    await this.removeSilentReaders(table, status);
    const identity = await this.findIdentity();
    // Without this node's own registration, which may end in between.
    const others = this.othersAmong(status.readers);
    const obstacle = this.findObstacle(status, others, identity);
    const mayJoin = obstacle === undefined && identity !== undefined;
    if (mayJoin) {
      const isRegistered = await this.stayRegistered(table, status);
      this.setState(isRegistered ? 'member' : 'joining');
      return isRegistered ? this.useEpoch(status, identity) : undefined;
    }
    await this.leave(client);
    if (others.length === 0) await this.moveEpoch(table, status, identity);
    this.setState(obstacle ?? 'joining');
    return undefined;
  }

  /** Closes the gate, then ends the registration. */
  async leave(client: Client): Promise<void> {
    const { registration } = this;
    if (registration === undefined) return;
    this.forgetRegistration();
    await new EpochTable(client).remove(registration);
  }

  /** PostgreSQL does not answer as it should. The registration remains until others remove it. */
  loseDatabase(cause: string): void {
    this.setState('no-database', cause);
  }

  /** Of the cache, if it answers: a node that hangs must not hold writers back by registering. */
  private async findIdentity(): Promise<string | undefined> {
    const { identity, isSharded } = this.cache;
    const isKnownToAnswer = this.store !== undefined || isSharded === true;
    if (identity === undefined || isKnownToAnswer) return identity;
    const isAnswering = await this.cache.ping().then(
      () => true,
      () => false,
    );
    return isAnswering ? this.cache.identity : undefined;
  }

  /** @returns why this node must not be registered for the current epoch */
  private findObstacle(
    status: EpochStatus,
    others: readonly CacheReader[],
    identity: string | undefined,
  ): MembershipState | undefined {
    const tables = this.entities.tables();
    if (!coversTables(status.triggerArguments, tables)) return 'migrations-pending';
    if (status.isOlderReleasePresent) return 'older-release';
    if (status.epochServer !== null && status.epochServer !== status.server) return 'new-server';
    if (identity === undefined) return 'no-cache';
    if (status.cache === identity) return undefined;
    return others.length > 0 ? 'other-cache' : 'joining';
  }

  /** Begins an epoch that this node may join, once nobody is registered for the current one. */
  private async moveEpoch(
    table: EpochTable,
    status: EpochStatus,
    identity: string | undefined,
  ): Promise<void> {
    const { epoch, cache, epochServer, server, isOlderReleasePresent } = status;
    if (!this.mayTrustRegistry(status)) return;
    // An older release invalidates its own keys only, so ours must never be read again.
    const nextCache = isOlderReleasePresent ? null : (identity ?? null);
    const isServerNew = epochServer !== server;
    const mayChooseCache = isOlderReleasePresent || identity !== undefined;
    const isCacheNew = mayChooseCache && cache !== nextCache;
    if (isServerNew || isCacheNew) await table.move(epoch, nextCache, server);
  }

  /**
   * Whether a node that is not in the registry answers from no cache. A server that was promoted
   * may lack registrations: their gates close by themselves.
   */
  private mayTrustRegistry({ epochServer, server }: EpochStatus): boolean {
    if (epochServer === null || epochServer === server) {
      this.newServer = undefined;
      return true;
    }
    const now = performance.now();
    if (this.newServer?.server !== server) this.newServer = { server, since: now };
    return now - this.newServer.since >= this.timings.gateTimeoutMs;
  }

  /** @returns whether this node is registered for the current epoch */
  private async stayRegistered(table: EpochTable, status: EpochStatus): Promise<boolean> {
    if (await this.showLife(table, status)) return true;
    // Never registered, or not any more, or for an earlier epoch.
    this.forgetRegistration();
    const registration = randomUUID();
    const now = performance.now();
    this.registration = registration;
    const isRegistered = await table.register(registration, status.epoch);
    if (isRegistered) this.lastBeatAt = now;
    else this.registration = undefined;
    return isRegistered;
  }

  /** @returns whether the registration is still there, and others have seen or will see it live */
  private async showLife(table: EpochTable, { epoch, readers }: EpochStatus): Promise<boolean> {
    const { registration } = this;
    const isListed = readers.some(
      (reader) => reader.registration === registration && reader.epoch === epoch,
    );
    if (registration === undefined || !isListed || this.store?.epoch.id !== epoch) return false;
    const now = performance.now();
    if (now - this.lastBeatAt < MIN_BEAT_INTERVAL_MS) return true;
    const isAlive = await table.beat(registration);
    if (isAlive) this.lastBeatAt = now;
    return isAlive;
  }

  /** Closes the gate. What is left of the registration counts as a silent reader's. */
  private forgetRegistration(): void {
    this.registration = undefined;
    this.lastBeatAt = Number.NEGATIVE_INFINITY;
    if (this.store) this.gate.close();
    this.store?.near?.close();
    this.store = undefined;
  }

  private useEpoch(status: EpochStatus, identity: string): EpochStore {
    const isSame = this.store?.epoch.id === status.epoch && this.store.epoch.cache === identity;
    if (!this.store || !isSame) {
      this.store?.near?.close();
      const near = this.near?.join(this.cache.nearList, status.epoch);
      const epoch = { id: status.epoch, cache: identity };
      this.store = new EpochStore(this.cache, epoch, undefined, near);
      this.declaredKeys = declaredKeysOf(status, this.entities);
    }
    return this.store;
  }

  /** A node that has shown no life for so long has closed its gate by itself. */
  private async removeSilentReaders(table: EpochTable, { readers }: EpochStatus): Promise<void> {
    const now = performance.now();
    const others = this.othersAmong(readers);
    const present = new Set(others.map(({ registration }) => registration));
    for (const registration of this.seenReaders.keys()) {
      if (!present.has(registration)) this.seenReaders.delete(registration);
    }
    const isSilent = ({ registration, beat }: CacheReader): boolean => {
      const seen = this.seenReaders.get(registration);
      if (seen?.beat === beat) return now - seen.since >= this.timings.gateTimeoutMs;
      this.seenReaders.set(registration, { beat, since: now });
      return false;
    };
    for (const reader of others.filter(isSilent)) {
      await table.removeSilent(reader);
      this.logger.warn('A node shows no life: it counts as a reader of the cache no longer');
    }
  }

  private othersAmong(readers: readonly CacheReader[]): CacheReader[] {
    return readers.filter(({ registration }) => registration !== this.registration);
  }

  private setState(state: MembershipState, cause?: string): void {
    if (state === this.currentState) return;
    this.currentState = state;
    this.metrics.setMembership(state, Object.keys(MEMBERSHIP_STATES));
    const reason = cause === undefined ? '' : ` (${cause})`;
    const line = `Cache membership: ${state}: ${MEMBERSHIP_STATES[state]}${reason}`;
    if (state === 'member' || state === 'joining') this.logger.log(line);
    else this.logger.warn(`${line}; reads go to PostgreSQL`);
  }
}

/**
 * The tables whose keys this release and the database know alike, in the database's words. The
 * database may know more keys than this release: then its changes count as unfenced.
 */
function declaredKeysOf({ triggerArguments }: EpochStatus, entities: CachedEntities): string {
  const known = entities.tables().flatMap(({ table, keys }) => {
    const databaseKeys = triggerArguments[table] ?? [];
    return databaseKeys.length === keys.length ? [databaseKeys.join(';')] : [];
  });
  return known.map((keys) => `${keys}|`).join('');
}
