/**
 * Rules about SQL in migrations, which run while requests go on
 * (docs/adr/0025-online-migrations.md). Tables that the same migration creates are excepted: no
 * request knows them yet. test/platform/database/online-migrations.spec.ts checks the real locks.
 */
import ts from 'typescript';
import { calledName, search, type SourceFile, stringOf, visit } from '../support/source-tree.js';
import { type Exceptions, type Rule, withExceptions } from './rule.js';

const HELPERS = 'migrations/online/';
/** The helpers that bound the wait for locks. */
const LOCKING_CALL = /^(blockWrites|blockAccess)$/;

/** Who may change rows of an existing table in one statement. */
const ROW_CHANGES: Exceptions = {
  'migrations/1763683200013-cache-epochs.ts': 'one row, found by its key',
};

const CREATED_TABLE = /\bCREATE TABLE (?:IF NOT EXISTS )?(\w+)/g;
const CREATED_INDEX = /\bCREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?\S+ ON (\S+)/;
const DROPPED_INDEX = /\bDROP INDEX (?!CONCURRENTLY)/;
const CHECKED_AT_ONCE = /\bADD (?:CONSTRAINT \S+ )?(?:CHECK|FOREIGN KEY)\b/;
/** Each with the table that it locks. */
const LOCKING = [
  /\bALTER TABLE (?:IF EXISTS )?(\S+)/,
  /\bLOCK (?:TABLE )?(\S+)/,
  /\bCREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER .*? ON (\S+)/,
  /\bDROP TRIGGER .*? ON (\S+)/,
  /\bREFERENCES (\w+)/,
];
const DROPPED_TABLE = /\bDROP TABLE\b/;
const CHANGED_ROWS = /^(?:UPDATE|DELETE FROM) (\S+)/;

/** The string literals that the helpers send: their arguments, and constants among them. */
function sheltered(ast: ts.SourceFile): Set<ts.Node> {
  const constants = new Map<string, ts.Node>();
  visit(ast, (node) => {
    if (ts.isVariableDeclaration(node) && ts.isIdentifier(node.name) && node.initializer) {
      constants.set(node.name.text, node.initializer);
    }
  });
  const found = new Set<ts.Node>();
  const add = (node: ts.Node): void => {
    if (found.has(node)) return;
    found.add(node);
    const constant = ts.isIdentifier(node) ? constants.get(node.text) : undefined;
    if (constant) visit(constant, add);
  };
  visit(ast, (node) => {
    if (ts.isCallExpression(node) && LOCKING_CALL.test(calledName(node) ?? '')) visit(node, add);
  });
  return found;
}

function createdTables({ ast }: SourceFile): Set<string> {
  const tables = new Set<string>();
  visit(ast, (node) => {
    for (const [, table] of (stringOf(node) ?? '').matchAll(CREATED_TABLE)) {
      tables.add(table as string);
    }
  });
  return tables;
}

/** @returns what is wrong with the SQL; undefined when nothing is, or it is not SQL */
function violationOf(
  sql: string,
  created: ReadonlySet<string>,
  isSheltered: boolean,
): string | undefined {
  const isOfRequests = (table: string | undefined): table is string =>
    table !== undefined && !created.has(table);
  const indexed = CREATED_INDEX.exec(sql);
  if (isOfRequests(indexed?.[1])) return `${indexed?.[0]}: use ensureIndex`;
  if (DROPPED_INDEX.test(sql)) return `${sql}: use dropIndex`;
  if (CHECKED_AT_ONCE.test(sql) && !/\bNOT VALID\b/.test(sql)) {
    return `${sql}: use addChecks or addForeignKey`;
  }
  const changed = CHANGED_ROWS.exec(sql);
  if (isOfRequests(changed?.[1])) return `${changed?.[0]}: use changeInBatches`;
  if (isSheltered) return undefined;
  if (DROPPED_TABLE.test(sql)) return `${sql}: use blockAccess`;
  const locking = LOCKING.map((pattern) => pattern.exec(sql)).find((match) =>
    isOfRequests(match?.[1]?.replace(/[,;].*/, '')),
  );
  return locking ? `${locking[0]}: use blockWrites or blockAccess` : undefined;
}

export const MIGRATION_RULES: readonly Rule[] = [
  {
    name: 'a migration changes existing tables through the helpers of migrations/online',
    check: (tree, isWholeTree) =>
      withExceptions(ROW_CHANGES, isWholeTree, (isExcepted) => {
        const files = tree.in('migrations').filter(({ path }) => !path.startsWith(HELPERS));
        return files.flatMap((file) => {
          const created = createdTables(file);
          const inHelpers = sheltered(file.ast);
          return search([file], (node, { path }) => {
            const sql = stringOf(node)?.replace(/\s+/g, ' ').trim();
            const found = sql && violationOf(sql, created, inHelpers.has(node));
            if (!found) return undefined;
            const changesRows = CHANGED_ROWS.test(found);
            return changesRows && isExcepted(path) ? undefined : found;
          });
        });
      }),
    broken: {
      'migrations/online/indexes.ts': `query('CREATE INDEX a ON orders (a)');`,
      'migrations/1-good.ts': `
        const TRIGGERS = ['ALTER TABLE users ENABLE ALWAYS TRIGGER a'];
        query('CREATE TABLE notes (id uuid)');
        query('CREATE UNIQUE INDEX notes_id ON notes (id)');
        query('ALTER TABLE notes ADD COLUMN a int');
        query('UPDATE notes SET a = 1');
        blockWrites(runner, ['users'], TRIGGERS);
        blockAccess(runner, ['users'], ['ALTER TABLE users ADD COLUMN a int']);
        blockAccess(runner, ['users'], ['DROP TABLE notes']);`,
      'migrations/2-bad.ts': `
        query('CREATE INDEX orders_a ON orders (a)');
        query('DROP INDEX orders_b');
        blockAccess(runner, ['orders'], ['ALTER TABLE orders ADD CONSTRAINT c CHECK (a > 0)']);
        query('ALTER TABLE orders ADD FOREIGN KEY (a) REFERENCES users (id)');
        query(\`ALTER TABLE \${table} SET (fillfactor = 80)\`);
        query('LOCK TABLE orders, outbox IN SHARE MODE');
        query(\`CREATE CONSTRAINT TRIGGER t
          AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f()\`);
        query('DROP TRIGGER t ON users');
        query('CREATE TABLE notes (id uuid REFERENCES users (id))');
        query('DROP TABLE notes');
        query('UPDATE inbox SET held = true');
        query('DELETE FROM inbox');`,
    },
    finds: [
      'CREATE INDEX orders_a ON orders: use ensureIndex',
      'DROP INDEX orders_b: use dropIndex',
      'CHECK (a > 0): use addChecks',
      'REFERENCES users (id): use addChecks or addForeignKey',
      'ALTER TABLE ${table}',
      'LOCK TABLE orders,',
      'CREATE CONSTRAINT TRIGGER t AFTER INSERT ON users',
      'DROP TRIGGER t ON users',
      'REFERENCES users: use blockWrites',
      'DROP TABLE notes: use blockAccess',
      'UPDATE inbox: use changeInBatches',
      'DELETE FROM inbox: use changeInBatches',
    ],
  },
];
