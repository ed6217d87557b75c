import { bundledFiles, sharedBundles } from './scripts/bundle-packages.mjs';
import { SWC_OPTIONS } from './scripts/compile.mjs';

/** Bundled packages: a test file of the service otherwise loads more than 2 000 modules. */
const BUNDLES = Object.entries(bundledFiles(await sharedBundles())).map(([name, file]) => [
  `^${name}$`,
  file,
]);

/** Tests run as native ES modules; each file gets its own database (test/support/postgres.ts). */
export default {
  rootDir: '.',
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.spec.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: {
    '^(\\.{1,2}/.*)\\.js$': '$1',
    '^#migrations$': '<rootDir>/migrations/migrations.ts',
    ...Object.fromEntries(BUNDLES),
  },
  transform: { '^.+\\.ts$': ['@swc/jest', SWC_OPTIONS] },
  cacheDirectory: '<rootDir>/node_modules/.cache/jest',
  globalSetup: '<rootDir>/test/support/global-setup.mjs',
  globalTeardown: '<rootDir>/test/support/global-teardown.mjs',
  reporters: ['<rootDir>/test/support/progress-reporter.mjs'],
  testSequencer: '<rootDir>/test/support/longest-first-sequencer.mjs',
  // Only ends tests that hang: no test may fail because the machine is slow.
  testTimeout: 120_000,
  // More workers than cores: tests spend much of their time waiting for processes and timeouts.
  maxWorkers: 3,
  // Node 20 frees no module of a finished file (ModuleWrap). A full heap makes every file slower,
  // and its worker takes longer to exit than jest waits.
  workerIdleMemoryLimit: '600MB',
};
