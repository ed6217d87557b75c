/**
 * A transaction on the rebuild's own connection. It is no {@link UnitOfWork}: a rebuild needs a
 * snapshot and works on tables as a whole. The triggers of `orders` invalidate the caches for it.
 */
import type { ClientBase } from 'pg';

/** REPEATABLE READ gives one snapshot, READ COMMITTED sees what others commit meanwhile. */
export type IsolationLevel = 'REPEATABLE READ' | 'READ COMMITTED';

/** @throws whatever `work` throws, after a rollback */
export async function inTransaction<T>(
  client: ClientBase,
  isolation: IsolationLevel,
  work: () => Promise<T>,
): Promise<T> {
  await client.query(`BEGIN ISOLATION LEVEL ${isolation}`);
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}
