/**
 * Writes how a run of jest ended into the file that HOLDFAST_SPEC_RESULT names, as JSON, and ends
 * the run at its first failed test: the tests after it would only wait for their timeouts. The
 * run's janitor (scripts/janitor.mjs) ends what the tests have started.
 */
import { writeFileSync } from 'node:fs';

export default class FirstFailureReporter {
  onTestCaseResult(_test, { status, fullName }) {
    if (status !== 'failed') return;
    report({ state: 'failed', test: fullName });
    process.exit(1);
  }

  onRunComplete(_contexts, results) {
    const { numPassedTests, testResults } = results;
    const unloadable = testResults.find(({ testExecError }) => testExecError);
    if (unloadable) report({ state: 'unloadable', reason: unloadable.testExecError.message });
    else report({ state: 'passed', tests: numPassedTests });
  }
}

function report(result) {
  writeFileSync(process.env.HOLDFAST_SPEC_RESULT, JSON.stringify(result));
}
