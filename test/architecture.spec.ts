/**
 * The rules of docs/architecture.md and docs/style.md, checked on the source itself. Each rule runs
 * twice: on the repository, where it must find nothing, and on a small tree that breaks it, where
 * it must find exactly that. An exception without a use is a violation too.
 */
import { describe, expect, it } from '@jest/globals';
import { DATA_RULES } from './architecture/data.js';
import { HABIT_RULES } from './architecture/habits.js';
import { LAYER_RULES } from './architecture/layers.js';
import { MIGRATION_RULES } from './architecture/migrations.js';
import { SourceTree } from './support/source-tree.js';

const RULES = [...LAYER_RULES, ...DATA_RULES, ...HABIT_RULES, ...MIGRATION_RULES];

describe('the repository', () => {
  const tree = SourceTree.ofRepository();

  it('is read as a whole: every import of a source file leads to a file', () => {
    expect(tree.in('src').length).toBeGreaterThan(60);
    const known = new Set(tree.files.map(({ path }) => path));
    const dangling = tree.in('src').flatMap(({ path, imports }) =>
      imports
        .filter((imported) => imported.startsWith('src/'))
        .filter((imported) => !known.has(imported))
        .map((imported) => `${path} -> ${imported}`),
    );
    expect(dangling).toEqual([]);
  });

  it.each(RULES)('$name', ({ check }) => {
    expect(check(tree, true)).toEqual([]);
  });
});

describe('a tree that breaks the rule is found', () => {
  it.each(RULES)('$name', ({ check, broken, finds }) => {
    const violations = check(new SourceTree(broken), false);
    expect(violations).toEqual(finds.map((find) => expect.stringContaining(find)));
  });

  it('an exception that nothing needs is a violation', () => {
    const empty = new SourceTree({});
    const rulesWithExceptions = RULES.filter(
      ({ check }) => check(empty, true).length > check(empty, false).length,
    );
    expect(rulesWithExceptions.length).toBeGreaterThan(0);
  });
});
