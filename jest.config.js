/**
 * jest finds, orders and reports the tests. Their compiled copies run in Node itself, not in a
 * context of jest's (docs/adr/0027-tests-run-in-node.md). Each file gets its own database
 * (test/support/postgres.ts).
 */
export default {
  rootDir: '.',
  testMatch: ['<rootDir>/test/**/*.spec.ts'],
  testEnvironment: '<rootDir>/test/support/jest/environment.mjs',
  runtime: '<rootDir>/test/support/jest/runtime.mjs',
  transform: {},
  cacheDirectory: '<rootDir>/node_modules/.cache/jest',
  globalSetup: '<rootDir>/test/support/jest/global-setup.mjs',
  globalTeardown: '<rootDir>/test/support/jest/global-teardown.mjs',
  reporters: ['<rootDir>/test/support/jest/progress-reporter.mjs'],
  testSequencer: '<rootDir>/test/support/jest/longest-first-sequencer.mjs',
  // Only ends tests that hang: no test may fail because the machine is slow.
  testTimeout: 300_000,
  // More workers than cores: tests spend much of their time waiting for processes and timeouts.
  maxWorkers: 3,
  // A worker whose heap has grown makes its next files slower.
  workerIdleMemoryLimit: '600MB',
};
