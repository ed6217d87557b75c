/**
 * Where jest runs a test file: in Node itself, with Node's globals. What a test file may change of
 * them ends with it.
 */
import { ModernFakeTimers } from '@jest/fake-timers';
import { ModuleMocker } from 'jest-mock';

const { console: ownConsole } = globalThis;
const { exit } = process;

export default class NodeItself {
  global = globalThis;
  moduleMocker = new ModuleMocker(globalThis);

  constructor({ projectConfig }) {
    this.fakeTimersModern = new ModernFakeTimers({ config: projectConfig, global: globalThis });
  }

  async setup() {}

  async teardown() {
    this.moduleMocker.restoreAllMocks();
    this.fakeTimersModern.dispose();
    // jest replaces these two for each file.
    globalThis.console = ownConsole;
    process.exit = exit;
  }

  getVmContext() {
    return null;
  }
}
