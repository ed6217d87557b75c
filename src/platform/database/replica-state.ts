/**
 * Whether a server is a replica of this primary, and how old its data can be. A URL may lead to the
 * wrong server: to the primary, to a replica that was promoted, or to another system.
 */
import type { DataSource } from 'typeorm';

/** What a server says of itself. A position is a byte of the write-ahead log. */
export interface ServerState {
  readonly isInRecovery: boolean;
  /** Drawn by initdb: a primary and its replicas have the same. */
  readonly systemId: string;
  /** A promotion begins a new one. A replica may name the one before for some minutes. */
  readonly timeline: number;
  /** The end of what a primary has written, or of what a replica has replayed. */
  readonly position: bigint;
  /** Milliseconds since the last replayed commit; null on a server that has replayed none. */
  readonly replayAgeMs: number | null;
}

/**
 * A primary's timeline is that of the log it writes. A replica's is that of its connection to the
 * primary, which only roles with pg_read_all_stats see; else that of its last checkpoint.
 */
const SELECT_STATE = `
  SELECT pg_is_in_recovery() AS "isInRecovery",
         system_identifier::text AS "systemId",
         CASE WHEN pg_is_in_recovery()
              THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
                            greatest(timeline_id, min_recovery_end_timeline))
              ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
         END AS timeline,
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
              ELSE pg_current_wal_insert_lsn()
         END::text AS position,
         (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::float8
           AS "replayAgeMs"
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()`;

/** @throws a driver error */
export async function readServerState(dataSource: DataSource): Promise<ServerState> {
  const [state] =
    await dataSource.query<(Omit<ServerState, 'position'> & { position: string })[]>(SELECT_STATE);
  if (!state) throw new Error('PostgreSQL returned no state');
  return { ...state, position: parsePosition(state.position) };
}

/** @param text of a pg_lsn: two hexadecimal numbers, e.g. `16/B374D848` */
function parsePosition(text: string): bigint {
  const [high = '0', low = '0'] = text.split('/');
  return BigInt(`0x${high}`) * 2n ** 32n + BigInt(`0x${low}`);
}

/**
 * Why a server cannot answer for a primary; undefined when it can.
 * @param server read before `primary`: what it has replayed, the primary had written by then
 */
export function findReplicaProblem(server: ServerState, primary: ServerState): string | undefined {
  if (!server.isInRecovery) return 'is not a replica: it accepts writes';
  if (server.systemId !== primary.systemId) return 'is a replica of another system';
  if (server.timeline !== primary.timeline) {
    return `follows timeline ${server.timeline}, the primary is on ${primary.timeline}`;
  }
  if (server.position > primary.position) return 'has replayed what the primary never wrote';
  const hasAll = server.position === primary.position;
  if (!hasAll && server.replayAgeMs === null) {
    return 'has replayed no commit since its start, so the age of its data is unknown';
  }
  return undefined;
}

/**
 * The moment, in milliseconds since 1970, whose commits a replica has all replayed.
 * @param askedAt when its state was asked for
 */
export function freshnessOf(server: ServerState, primary: ServerState, askedAt: number): number {
  if (server.position === primary.position) return askedAt;
  return askedAt - (server.replayAgeMs ?? Infinity);
}
