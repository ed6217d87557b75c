/** What a rule about the code is, and how its exceptions are kept honest. */
import type { Sources, SourceTree } from '../support/source-tree.js';

export interface Rule {
  readonly name: string;
  /**
   * One line for each violation. `isWholeTree` is false for the small trees below, in which not
   * every exception can be in use.
   */
  readonly check: (tree: SourceTree, isWholeTree: boolean) => string[];
  /** A small tree that breaks the rule. */
  readonly broken: Sources;
  /** What must be found in it: a part of each line, as many as there are violations. */
  readonly finds: readonly string[];
}

/** A place where a rule does not hold, by name, with the reason. */
export type Exceptions = Readonly<Record<string, string>>;

/** Violations without the excepted ones, and one line for each exception that nothing needs. */
export function withExceptions(
  exceptions: Exceptions,
  isWholeTree: boolean,
  find: (isExcepted: (name: string) => boolean) => string[],
): string[] {
  const used = new Set<string>();
  const violations = find((name) => {
    if (!(name in exceptions)) return false;
    used.add(name);
    return true;
  });
  if (!isWholeTree) return violations;
  const unused = Object.keys(exceptions).filter((name) => !used.has(name));
  return violations.concat(unused.map((name) => `the exception for ${name} is no longer needed`));
}
