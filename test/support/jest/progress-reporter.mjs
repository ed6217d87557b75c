/**
 * What `npm test` prints: one line for each finished file with a running count, the failures in
 * full, and at the end what failed, how long it took and one closing line for people and for CI.
 */
import { relative } from 'node:path';

const SLOWEST_SHOWN = 5;

export default class ProgressReporter {
  #startedAt = 0;
  #fileCount = 0;
  #finished = [];

  onRunStart({ numTotalTestSuites }) {
    this.#startedAt = performance.now();
    this.#fileCount = numTotalTestSuites;
  }

  onTestResult(test, result) {
    const path = relative(process.cwd(), test.path);
    const hasFailed = result.failureMessage !== null && result.failureMessage !== undefined;
    const seconds = (result.perfStats.runtime ?? 0) / 1000;
    this.#finished.push({ path, hasFailed, seconds });

    const width = String(this.#fileCount).length;
    const count = `${String(this.#finished.length).padStart(width)}/${this.#fileCount}`;
    const verdict = hasFailed ? 'FAILED' : 'ok    ';
    const tests = `${result.numPassingTests} passed${skippedPart(result.numPendingTests)}`;
    print(`[${count}] ${verdict} ${path}  ${tests}, ${seconds.toFixed(1)} s`);
    if (this.#fileCount === 1) printTests(result.testResults);
    for (const { message, origin } of result.console ?? []) print(`    ${message}\n${origin}`);
    if (hasFailed) print(result.failureMessage);
  }

  onRunComplete(_contexts, results) {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    const failedFiles = this.#finished.filter(({ hasFailed }) => hasFailed);
    print('');
    for (const line of skippedLines(results.testResults)) print(line);
    for (const { path } of failedFiles) print(`FAILED ${path}`);
    if (this.#fileCount > SLOWEST_SHOWN) print(`Slowest files: ${this.#slowest()}`);
    print(`${this.#finished.length} of ${this.#fileCount} files in ${seconds.toFixed(0)} s`);
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = skippedPart(results.numPendingTests);
    print(`${results.numPassedTests} passed, ${failed} failed${skipped}`);
  }

  #slowest() {
    return this.#finished
      .toSorted((a, b) => b.seconds - a.seconds)
      .slice(0, SLOWEST_SHOWN)
      .map(({ path, seconds }) => `${path} ${seconds.toFixed(0)} s`)
      .join(', ');
  }
}

function print(line) {
  process.stdout.write(`${line}\n`);
}

/** One line for each group of tests that was skipped; its name says why. */
function skippedLines(files) {
  const counts = new Map();
  for (const { testResults } of files) {
    for (const { status, ancestorTitles, title } of testResults) {
      const group = ancestorTitles[0] ?? title;
      if (status === 'pending') counts.set(group, (counts.get(group) ?? 0) + 1);
    }
  }
  return [...counts].map(([group, count]) => `Skipped ${count} of "${group}"`);
}

const skippedPart = (count) => (count > 0 ? `, ${count} skipped` : '');

const MARKS = { passed: 'ok     ', failed: 'FAILED ' };

function printTests(tests) {
  for (const { ancestorTitles, title, status } of tests) {
    print(`  ${MARKS[status] ?? 'skipped'} ${[...ancestorTitles, title].join(' › ')}`);
  }
}
