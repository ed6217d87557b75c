/** After the last test of a run: the shared PostgreSQL goes, with its files. A run that is killed needs no teardown. */
export default async function globalTeardown(): Promise<void> {
  await globalThis.stopSharedPostgres?.();
}
