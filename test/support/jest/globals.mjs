/**
 * What `@jest/globals` exports to compiled tests. The package itself only throws outside of jest's
 * own runtime. The exports are those of the file that runs: a worker runs one after the other.
 */
export let afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest, test;

export function provide(globals) {
  ({ afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest, test } = globals);
}
