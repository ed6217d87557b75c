/** Rules about data: who commits, who writes cached tables, what an entity may be. */
import ts from 'typescript';
import {
  calledName,
  decoratorsOf,
  search,
  type SourceTree,
  stringOf,
  visit,
} from '../support/source-tree.js';
import { BUSINESS, isCallOf } from './layers.js';
import { type Exceptions, type Rule, withExceptions } from './rule.js';

const TRANSACTION_WORDS = [
  '[Bb](?:egin|EGIN)',
  'COMMIT',
  '[Cc]ommit',
  '(?:START|start)\\s+(?:TRANSACTION|transaction)',
];
const TRANSACTION_SQL = new RegExp(`^\\s*((${TRANSACTION_WORDS.join('|')})\\b|END\\s*;?\\s*$)`);
/** Who may end a transaction, besides the migrations. */
const COMMITTERS: Exceptions = {
  'src/platform/database/unit-of-work.ts': 'the one place that commits what a request changed',
  'src/platform/inbox/consumer-runner.ts':
    'marks its own rows, which no cache holds, together with what a handler did through it',
  'src/platform/cache/write/database-invalidations.ts':
    'deletes its own rows, which no cache holds, once their keys are invalidated',
  'src/orders/projection/rebuild-transaction.ts':
    'an operator command that needs one snapshot of all orders, and locks of many rows',
};
/** The two files through which the service itself writes cached rows. */
const MAPPED_WRITERS = [
  'src/platform/database/transaction.ts',
  'src/platform/database/unit-of-work.ts',
];
/** Who may write a cached table in SQL. The trigger of the table then invalidates the keys. */
const RAW_WRITERS: Exceptions = {
  'src/orders/projection/repair-projection.ts':
    'repairs damaged rows from their events, which no entity can express',
  'src/orders/projection/service-user.ts':
    'inserts the user that the service acts as, which nobody reads',
  'src/platform/database/migrate.ts':
    'runs migrations in one session; a row that one changes is invalidated by its trigger',
  'scripts/seed/insert-rows.ts': 'inserts only new ids, which no cache holds',
};

/** The cached entities by class name, with their tables. */
function cachedEntities(tree: SourceTree): Map<string, string> {
  const tables = new Map<string, string>();
  for (const { ast } of tree.in('src')) {
    visit(ast, (node) => {
      if (!ts.isClassDeclaration(node) || !node.name) return;
      const decorators = new Map(decoratorsOf(node));
      if (decorators.has('Cached')) tables.set(node.name.text, decorators.get('Entity') ?? '');
    });
  }
  return tables;
}

const REPOSITORY_WRITES =
  /^(save|upsert|softDelete|softRemove|restore|increment|decrement|createQueryRunner)$/;
const ENTITY_WRITES = /^(insert|update|delete|remove|into|from)$/;

/** The write of a cached table that this node is, as text; undefined for any other node. */
function rawWriteIn(node: ts.Node, entities: ReadonlyMap<string, string>): string | undefined {
  const tables = [...entities.values()].filter((table) => table !== '').join('|') || '-';
  const writes = new RegExp(
    `\\b(INSERT\\s+INTO|UPDATE|DELETE\\s+FROM|TRUNCATE)\\s+"?(${tables})\\b`,
    'i',
  );
  const sql = writes.exec(stringOf(node) ?? '')?.[0];
  if (sql !== undefined) return sql;
  if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return;
  const { name, expression: receiver } = node.expression;
  if (REPOSITORY_WRITES.test(name.text)) return `${receiver.getText()}.${name.text}`;
  const writesCachedEntity =
    ENTITY_WRITES.test(name.text) && entities.has(node.arguments[0]?.getText() ?? '');
  const isTransaction = receiver.getText() === 'transaction';
  return writesCachedEntity && !isTransaction ? node.getText() : undefined;
}

export const DATA_RULES: readonly Rule[] = [
  {
    name: 'only the unit of work commits what a request changed',
    check: (tree, isWholeTree) =>
      withExceptions(COMMITTERS, isWholeTree, (isExcepted) =>
        search(tree.in('src'), (node, { path }) => {
          const begins = isCallOf(node, /^(transaction|startTransaction|commitTransaction)$/);
          const sql = TRANSACTION_SQL.exec(stringOf(node) ?? '')?.[1];
          const found = begins ? calledName(node) : sql;
          return found === undefined || isExcepted(path) ? undefined : found;
        }),
      ),
    broken: {
      'src/platform/database/unit-of-work.ts': `runner.commitTransaction();`,
      'src/a.ts': `dataSource.transaction(work); runner.commitTransaction();`,
      'src/b.ts': `client.query('COMMIT'); client.query(\`begin isolation level serializable\`); log('the COMMIT came', 'end');`,
    },
    finds: [
      'src/a.ts: transaction',
      'src/a.ts: commitTransaction',
      'src/b.ts: COMMIT',
      'src/b.ts: begin',
    ],
  },
  {
    name: 'a cached row is written through Transaction.insert, update and remove, and by no other SQL',
    check: (tree, isWholeTree) =>
      withExceptions(RAW_WRITERS, isWholeTree, (isExcepted) => {
        const entities = cachedEntities(tree);
        return search(tree.in('src', 'scripts'), (node, { path }) => {
          if (MAPPED_WRITERS.includes(path)) return undefined;
          const found = rawWriteIn(node, entities);
          return found === undefined || isExcepted(path) ? undefined : found;
        });
      }),
    broken: {
      'src/users/user.entity.ts': `@Entity('users') @Cached({ name: 'user' }) export class User {}`,
      'src/users/users.service.ts': `transaction.insert(User, row); manager.insert(User, row); manager.insert(Other, row); repository.save(row);`,
      'src/auth/auth.service.ts':
        'query(`UPDATE users SET roles = 1`); query(`SELECT 1 FROM users`); query(`UPDATE outbox SET a = ${b}`);',
      'scripts/seed.ts': 'query(`DELETE FROM users WHERE id = ${id}`);',
    },
    finds: ['manager.insert(User', 'repository.save', 'UPDATE users', 'DELETE FROM users'],
  },
  {
    name: 'there are no TypeORM relations: modules know each other by id, foreign keys live in SQL',
    check: (tree) =>
      search(tree.in('src'), (node) =>
        ts.isDecorator(node)
          ? /^@(OneTo|ManyTo|Join(Column|Table)|RelationId|Tree)\w*/.exec(node.getText())?.[0]
          : undefined,
      ),
    broken: {
      'src/orders/order.entity.ts': `class Order { @ManyToOne(() => User) @JoinColumn() user: User; @Column() a: string; }`,
    },
    finds: ['@ManyToOne', '@JoinColumn'],
  },
  {
    name: 'business modules throw problems of the catalogue, not HTTP exceptions',
    check: (tree) =>
      search(tree.in(...BUSINESS.map((module) => `src/${module}`)), (node) =>
        ts.isNewExpression(node) && /Exception$/.test(node.expression.getText())
          ? node.expression.getText()
          : undefined,
      ),
    broken: {
      'src/orders/orders.service.ts': `throw new NotFoundException(); throw problems.notFound();`,
    },
    finds: ['NotFoundException'],
  },
];
