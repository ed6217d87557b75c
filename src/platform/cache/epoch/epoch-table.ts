/**
 * What PostgreSQL keeps of the cache's membership, asked on one connection: the epoch and the nodes
 * that are registered as its readers (migrations/1763683200013-cache-epochs.ts).
 */
import type { Client } from 'pg';
import type { CachedTable } from '../cached-entity.js';

/** The connection of releases before the epochs, and the lock that their readers hold. */
const OLDER_RELEASE = { applicationName: 'holdfast-invalidations', readersLock: 0x686f6c64 };

/**
 * Which PostgreSQL this is. The history (system identifier and timeline) changes when a replica is
 * promoted: it may lack commits. The start time changes with a restart: a server that crashed
 * without `synchronous_commit` may lack some, too.
 */
export const SERVER = `
  (SELECT system_identifier FROM pg_control_system()) || '.' ||
  left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.' ||
  extract(epoch FROM pg_postmaster_start_time())`;

/** Whether a node of an older release may answer from its cache or write. */
export const IS_OLDER_RELEASE_PRESENT = `(
  EXISTS (SELECT FROM pg_stat_activity
           WHERE application_name = '${OLDER_RELEASE.applicationName}'
             AND datname = current_database()) OR
  EXISTS (SELECT FROM pg_locks
           WHERE locktype = 'advisory' AND objid = ${OLDER_RELEASE.readersLock} AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))`;

/** The arguments of a trigger, joined by `;`. In tgargs each has a zero byte behind it. */
const TRIGGER_ARGUMENTS = `rtrim(replace(encode(tgargs, 'escape'), '\\000', ';'), ';')`;

const INVALIDATION_TRIGGERS = `
  pg_trigger WHERE tgfoid = 'note_cache_invalidation'::regproc`;

/**
 * Declares that the transaction leaves no row to be invalidated: for new rows, whose keys no cache
 * can have.
 */
export const DECLARE_NEW_ROWS = `
  SELECT set_config('holdfast.fenced', epoch || '|' || declared, true)
    FROM cache_epoch,
         (SELECT string_agg(${TRIGGER_ARGUMENTS} || '|', '') AS declared
            FROM ${INVALIDATION_TRIGGERS}) AS tables`;

const READ_STATUS = `
  SELECT epoch, cache, server AS "epochServer", ${SERVER} AS server,
         ${IS_OLDER_RELEASE_PRESENT} AS "isOlderReleasePresent",
         (SELECT coalesce(json_agg(json_build_object(
            'registration', registration, 'epoch', epoch, 'beat', beat)),
                          '[]')
            FROM cache_readers) AS readers,
         (SELECT coalesce(json_object_agg(tgrelid::regclass::text, arguments), '{}')
            FROM (SELECT tgrelid, string_to_array(${TRIGGER_ARGUMENTS}, ';') AS arguments
                    FROM ${INVALIDATION_TRIGGERS}) AS invalidations
         ) AS "triggerArguments"
    FROM cache_epoch`;

const BEAT = 'UPDATE cache_readers SET beat = beat + 1 WHERE registration = $1 AND epoch = $2';
const REGISTER = 'SELECT register_cache_reader($1, $2) AS done';
const MOVE = 'SELECT move_cache_epoch($1, $2, $3) AS done';
const REMOVE = 'DELETE FROM cache_readers WHERE registration = $1';
/** One that holds its registration (FOR SHARE) is alive, or ends by its own timeouts. */
const REMOVE_SILENT = `
  DELETE FROM cache_readers WHERE registration = (
    SELECT registration FROM cache_readers WHERE registration = $1 AND beat = $2
       FOR UPDATE SKIP LOCKED)`;
/** Others may have waited for this node to go. */
const ANNOUNCE = `SELECT pg_notify('holdfast_cache_invalidations', '')`;

/** lock_not_available: the epoch's lock was held for too long. */
const LOCK_NOT_AVAILABLE = '55P03';

export interface CacheReader {
  readonly registration: string;
  readonly epoch: string;
  /** Increased by the node while it lives. */
  readonly beat: number;
}

export interface EpochStatus {
  readonly epoch: string;
  /** The identity of the one cache that may be used; null: none. */
  readonly cache: string | null;
  /** The PostgreSQL server that the epoch began on; null before the first. */
  readonly epochServer: string | null;
  /** The server that answers. */
  readonly server: string;
  readonly isOlderReleasePresent: boolean;
  readonly readers: readonly CacheReader[];
  /** By table: what the database enqueues for a change that was not fenced. */
  readonly triggerArguments: Readonly<Record<string, readonly string[]>>;
}

/** Each function throws a driver error. */
export class EpochTable {
  constructor(private readonly client: Pick<Client, 'query'>) {}

  async readStatus(): Promise<EpochStatus> {
    const { rows } = await this.client.query<EpochStatus>(READ_STATUS);
    return rows[0] as EpochStatus;
  }

  /** @returns whether the registration for this epoch is still there */
  async beat(registration: string, epoch: string): Promise<boolean> {
    const { rowCount } = await this.client.query(BEAT, [registration, epoch]);
    return rowCount === 1;
  }

  /** @returns whether the epoch is still the current one, and the registration is for it */
  async register(registration: string, epoch: string): Promise<boolean> {
    const { rows } = await this.client.query<{ done: boolean }>(REGISTER, [registration, epoch]);
    return rows[0]?.done === true;
  }

  /**
   * Begins the next epoch, unless a node is registered or the epoch has moved.
   * @param cache null: no cache may be used
   */
  async move(epoch: string, cache: string | null, server: string): Promise<boolean> {
    try {
      const { rows } = await this.client.query<{ done: boolean }>(MOVE, [epoch, cache, server]);
      return rows[0]?.done === true;
    } catch (error) {
      if ((error as { code?: string }).code === LOCK_NOT_AVAILABLE) return false;
      throw error;
    }
  }

  async remove(registration: string): Promise<void> {
    const { rowCount } = await this.client.query(REMOVE, [registration]);
    if (rowCount === 1) await this.client.query(ANNOUNCE);
  }

  /** Removes a node that has not changed its beat. */
  async removeSilent({ registration, beat }: CacheReader): Promise<void> {
    await this.client.query(REMOVE_SILENT, [registration, beat]);
  }
}

/** Whether the database enqueues every key that this release caches rows under. */
export function coversTables(
  triggerArguments: EpochStatus['triggerArguments'],
  tables: readonly CachedTable[],
): boolean {
  return tables.every(({ table, keys: [entity, ...keys] }) => {
    const [databaseEntity, ...databaseKeys] = triggerArguments[table] ?? [];
    return databaseEntity === entity && keys.every((key) => databaseKeys.includes(key));
  });
}
