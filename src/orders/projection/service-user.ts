/**
 * The user that the service itself acts as: for repairs, and for what operators command. It has no
 * name and is deleted, so nobody can log in as it. Raw SQL on a cached table: the row is inserted
 * once, never changed, and no cache is asked for it.
 */
export const SERVICE_USER_ID = '00000000-0000-0000-0000-000000000000';

/** With {@link SERVICE_USER_ID} as $1. */
export const ENSURE_SERVICE_USER = `
  INSERT INTO users (id, created_at, deleted_at) VALUES ($1, now(), now())
  ON CONFLICT (id) DO NOTHING`;
