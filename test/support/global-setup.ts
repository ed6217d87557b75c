/**
 * Before the first test of a run: one PostgreSQL for all of them, with the migrated template. Its url reaches the workers
 * as TEST_POSTGRES_URL. Jest loads this file through `require`, outside its own module system.
 */
import Module from 'node:module';

type Resolve = (request: string, ...rest: unknown[]) => string;

export default async function globalSetup(): Promise<void> {
  const restore = resolveSourcesByTheirOutputNames();
  try {
    const { startSharedPostgres } = await import('./postgres.js');
    const { migrateDatabase } = await import('../../src/database/migrate.js');
    const server = await startSharedPostgres(migrateDatabase);
    process.env.TEST_POSTGRES_URL = server.url;
    globalThis.stopSharedPostgres = server.stop;
  } finally {
    restore();
  }
}

declare global {
  var stopSharedPostgres: (() => Promise<void>) | undefined;
}

/** `./x.js` names what `./x.ts` compiles to; jest maps it back for tests (moduleNameMapper), but not for this file. */
function resolveSourcesByTheirOutputNames(): () => void {
  const loader = Module as unknown as { _resolveFilename: Resolve };
  const original = loader._resolveFilename;
  loader._resolveFilename = function (request, ...rest) {
    try {
      return original.call(this, request, ...rest);
    } catch (error) {
      if (!/^\.{1,2}\/.*\.js$/.test(request)) throw error;
      return original.call(this, request.replace(/\.js$/, '.ts'), ...rest);
    }
  };
  return () => (loader._resolveFilename = original);
}
