/** What PostgreSQL committed, recorded by triggers. Histories are checked against it. */
import type { Client } from 'pg';
import type { CommittedVersion } from './history-checker.js';
import type { Subject } from './history.js';

/**
 * A deletion gets the version after the deleted row's. The stamp of a write is in the note of an
 * order, in the user agent of a session and in the local part of a user's email.
 */
const CREATE_AUDIT = `
  CREATE TABLE chaos_audit (
    entity text, id uuid, version bigint, is_deleted boolean, stamp text, username text,
    owner_id uuid, total bigint
  );

  CREATE FUNCTION chaos_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    is_deleted boolean := TG_OP = 'DELETE';
    r jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
  BEGIN
    INSERT INTO chaos_audit VALUES (
      TG_TABLE_NAME, (r ->> 'id')::uuid, (r ->> 'version')::bigint + is_deleted::int, is_deleted,
      coalesce(r ->> 'note', r ->> 'user_agent', split_part(r ->> 'email', '@', 1)),
      r ->> 'username', (r ->> 'user_id')::uuid, (r ->> 'total')::bigint);
    RETURN NULL;
  END $$;

  CREATE TRIGGER chaos_audit AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION chaos_audit_row();
  CREATE TRIGGER chaos_audit AFTER INSERT OR UPDATE OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION chaos_audit_row();
  CREATE TRIGGER chaos_audit AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION chaos_audit_row()`;

interface AuditRow {
  readonly entity: string;
  readonly id: string;
  readonly version: string;
  readonly is_deleted: boolean;
  readonly stamp: string;
  readonly username: string | null;
  readonly owner_id: string;
  readonly total: string;
}

export const createAudit = (client: Client): Promise<unknown> => client.query(CREATE_AUDIT);

export const clearAudit = (client: Client): Promise<unknown> =>
  client.query('TRUNCATE chaos_audit');

/** Every committed version of these subjects. */
export async function readAudit(
  client: Client,
  subjects: readonly Subject[],
): Promise<CommittedVersion[]> {
  const { rows } = await client.query<AuditRow>('SELECT * FROM chaos_audit');
  const indexById = new Map(subjects.map(({ id }, index) => [id, index]));
  return rows.flatMap((row): CommittedVersion[] => {
    const { is_deleted: isDeleted, username } = row;
    const stamp = Number(row.stamp);
    const subject = indexById.get(row.id);
    const isRow = subject !== undefined && subjects[subject]?.kind !== 'list';
    if (isRow) return [{ subject, version: Number(row.version), isDeleted, stamp, username }];
    // The owner of a list numbers its orders by their totals, from 1 on.
    const list = row.entity === 'orders' ? indexById.get(row.owner_id) : undefined;
    if (list === undefined) return [];
    return [{ subject: list, version: Number(row.total), isDeleted, stamp, username: null }];
  });
}
