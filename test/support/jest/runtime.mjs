/**
 * How jest loads a test file: Node imports its compiled copy (scripts/compile.mjs). Takes the place
 * of the package jest-runtime, whose contexts load every module of the service and of its packages
 * anew for each file. Here the files of a worker share them.
 */
import asyncHooks from 'node:async_hooks';
import { createRequire } from 'node:module';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(import.meta.url);

/** Where jest-circus, the framework, keeps what it calls for each event, and its tests. */
const EVENT_HANDLERS = 'EVENT_HANDLERS';
const STATE = 'JEST_STATE_SYMBOL';

/** The contexts of the framework of the last file. */
let contexts = [];

export default class NodeRuntime {
  #config;
  #environment;
  #testGlobals = {};

  constructor(config, environment) {
    this.#config = config;
    this.#environment = environment;
  }

  /** The framework keeps the tests that it has collected: each file gets a new one. */
  requireInternalModule(path) {
    forgetLastFramework(path);
    return withRecordedContexts(() => require(path));
  }

  requireModule(path) {
    return require(path);
  }

  unstable_shouldLoadAsEsm() {
    return true;
  }

  setGlobalsForRuntime(globals) {
    this.#testGlobals = { ...globals, jest: jestObject(this.#environment) };
  }

  async unstable_importModule(path) {
    const { provide } = await load('test/node_modules/@jest/globals/index.js');
    provide(this.#testGlobals);
    await load(relative(this.#config.rootDir, path).replace(/\.ts$/, '.js'));
  }

  /** The source maps are in the compiled files. */
  getSourceMaps() {
    return null;
  }

  getAllCoverageInfoCopy() {
    return undefined;
  }

  enterTestCode() {}
  leaveTestCode() {}
  teardown() {}
}

function load(compiledFile) {
  const folder = process.env.HOLDFAST_COMPILED_FOLDER;
  return import(pathToFileURL(join(folder, compiledFile)).href);
}

/** What stayed would keep the tests of each file in memory, and slow every promise down. */
function forgetLastFramework(path) {
  delete require.cache[path];
  for (const symbol of Object.getOwnPropertySymbols(globalThis)) {
    if ([EVENT_HANDLERS, STATE].includes(symbol.description)) delete globalThis[symbol];
  }
  for (const context of contexts) context.disable();
}

/** Runs `load` and records each AsyncLocalStorage that it makes. */
function withRecordedContexts(load) {
  const { AsyncLocalStorage } = asyncHooks;
  const original = Object.getOwnPropertyDescriptor(asyncHooks, 'AsyncLocalStorage');
  const made = [];
  class Recorded extends AsyncLocalStorage {
    constructor(...options) {
      super(...options);
      made.push(this);
    }
  }
  // In some releases of Node it is a getter, which cannot be assigned to.
  Object.defineProperty(asyncHooks, 'AsyncLocalStorage', { value: Recorded, configurable: true });
  try {
    return load();
  } finally {
    Object.defineProperty(asyncHooks, 'AsyncLocalStorage', original);
    contexts = made;
  }
}

/** The part of the `jest` object that the tests use. */
function jestObject({ moduleMocker, fakeTimersModern: timers }) {
  return {
    fn: (implementation) => moduleMocker.fn(implementation),
    spyOn: (...target) => moduleMocker.spyOn(...target),
    restoreAllMocks: () => moduleMocker.restoreAllMocks(),
    useFakeTimers: (options) => timers.useFakeTimers(options),
    useRealTimers: () => timers.useRealTimers(),
    advanceTimersByTime: (ms) => timers.advanceTimersByTime(ms),
    advanceTimersByTimeAsync: (ms) => timers.advanceTimersByTimeAsync(ms),
    getTimerCount: () => timers.getTimerCount(),
  };
}
