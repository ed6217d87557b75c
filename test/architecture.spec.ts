/**
 * The house's rules (docs/architecture.md), held by reading the source with TypeScript's own parser. Each rule is checked
 * twice: on the tree as it is, where it must find nothing, and on a small tree that breaks it, where it must find exactly that.
 * An exception is written here by name and reason, and one that nothing needs any more is a fault too.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import ts from 'typescript';

/** Path from the repository's root → text. */
type Sources = Readonly<Record<string, string>>;

interface File {
  readonly path: string;
  readonly text: string;
  readonly ast: ts.SourceFile;
  readonly lines: number;
  /** What it imports, by paths within the tree (or a package's name), types included. */
  readonly imports: readonly string[];
}

class Tree {
  readonly files: readonly File[];

  constructor(sources: Sources) {
    this.files = Object.entries(sources).map(([path, text]) => {
      const ast = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
      return {
        path,
        text,
        ast,
        lines: text.trimEnd().split('\n').length,
        imports: importsOf(path, ast),
      };
    });
  }

  in(...folders: string[]): readonly File[] {
    return this.files.filter(({ path }) => folders.some((folder) => path.startsWith(`${folder}/`)));
  }
}

function importsOf(path: string, ast: ts.SourceFile): string[] {
  const found: string[] = [];
  const add = (node: ts.Node | undefined): void => {
    if (!node || !ts.isStringLiteralLike(node)) return;
    const to = node.text.startsWith('.')
      ? posix.join(dirname(path), node.text.replace(/\.js$/, '.ts'))
      : node.text;
    found.push(to);
  };
  visit(ast, (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) add(node.moduleSpecifier);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      add(node.arguments[0]);
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument))
      add(node.argument.literal);
  });
  return found;
}

function visit(node: ts.Node, look: (node: ts.Node) => void): void {
  look(node);
  ts.forEachChild(node, (child) => visit(child, look));
}

/** Every `file: text of the node` for which `fault` gives a word. */
function search(
  files: readonly File[],
  fault: (node: ts.Node, file: File) => string | undefined,
): string[] {
  const faults: string[] = [];
  for (const file of files)
    visit(file.ast, (node) => {
      const word = fault(node, file);
      if (word !== undefined) faults.push(`${file.path}: ${word}`);
    });
  return faults;
}

const calledName = (node: ts.Node): string | undefined => {
  if (!ts.isCallExpression(node)) return undefined;
  const { expression } = node;
  if (ts.isPropertyAccessExpression(expression)) return expression.name.text;
  return ts.isIdentifier(expression) ? expression.text : undefined;
};
const sqlOf = (node: ts.Node): string | undefined => {
  if (ts.isStringLiteralLike(node)) return node.text;
  return ts.isTemplateExpression(node) ? node.getText().slice(1) : undefined;
};

/** Each set of nodes that reach each other. */
function cycles(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const reach = (from: string): Set<string> => {
    const seen = new Set<string>();
    const open = [...(edges.get(from) ?? [])];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (seen.has(next)) continue;
      seen.add(next);
      open.push(...(edges.get(next) ?? []));
    }
    return seen;
  };
  const reached = new Map([...edges.keys()].map((node) => [node, reach(node)]));
  const rings = [...reached].map(([node, far]) =>
    far.has(node) ? [...far].filter((other) => reached.get(other)?.has(node)) : [],
  );
  return [
    ...new Set(rings.filter((ring) => ring.length > 0).map((ring) => ring.sort().join(' <-> '))),
  ];
}

function edgesBetween(
  files: readonly File[],
  name: (path: string) => string,
): Map<string, Set<string>> {
  const edges = new Map<string, Set<string>>();
  for (const { path, imports } of files) {
    const targets = edges.get(name(path)) ?? new Set<string>();
    for (const to of imports) if (to.startsWith('src/')) targets.add(name(to));
    edges.set(name(path), targets);
  }
  return edges;
}

/** `users` for `src/users/user.entity.ts`; the file itself when it lies in src/. */
const roomOf = (path: string): string => path.split('/')[1] ?? path;

// ---- what may be entered, and by whom ----

const BUSINESS = ['users', 'auth', 'orders'];
/** Rule 1: what of a module others may import. */
const DOOR = /\.(module|service|dto|errors|events)\.ts$/;
/** Rooms whose doors are other files: the heart's and the database's are what every module builds on. */
const OWN_DOORS: Readonly<Record<string, readonly string[]>> = {
  cache: [
    'cached.decorator.ts',
    'cached-repository.ts',
    'cache.store.ts',
    'cache.headers.ts',
    'reading.ts',
    'representation.ts',
  ],
  inbox: ['on-event.ts'],
  database: ['unit-of-work.ts', 'columns.ts', 'database.probe.ts', 'replicas.ts'],
};
/** What is HTTP and no module's own is open to all. */
const OPEN = ['http'];

type Exception = readonly [from: string, to: string, reason: string];
const DOOR_EXCEPTIONS: readonly Exception[] = [
  [
    'src/app.ts',
    'src/telemetry/logger.ts',
    'the logger exists before the container, which logs its own start',
  ],
  ['src/main.ts', 'src/telemetry/logger.ts', 'the same logger, also for a start that fails'],
  [
    'src/app.ts',
    'src/telemetry/tracing.ts',
    'traces every request, and is loaded only when a collector is named',
  ],
  [
    'src/app.ts',
    'src/telemetry/metrics.ts',
    'measures every request: hooked into the HTTP server when it is made',
  ],
  [
    'src/app.ts',
    'src/telemetry/security-log.ts',
    'sees every answer: hooked into the HTTP server when it is made',
  ],
  [
    'src/app.ts',
    'src/telemetry/tracing.ts',
    'the same, and loaded only where traces are asked for',
  ],
  [
    'src/health/health.controller.ts',
    'src/outbox/outbox.relay.ts',
    'asks whether the broker is connected',
  ],
];
const MOST_LINES = 320;

const TRANSACTION_SQL =
  /^\s*(([Bb](egin|EGIN)|COMMIT|[Cc]ommit|(START|start)\s+(TRANSACTION|transaction))\b|END\s*;?\s*$)/;
/** Who may end a transaction, besides the migrations. */
const COMMITTERS: Readonly<Record<string, string>> = {
  'src/database/unit-of-work.ts': 'the one place that commits what a request changed',
  'src/inbox/inbox.service.ts':
    'marks its own rows, which no cache holds, with what a handler did through it',
  'src/cache/database-invalidations.ts':
    'removes its own rows, which no cache holds, when their keys are gone',
};

const unused = (what: string, named: Iterable<string>, used: ReadonlySet<string>): string[] =>
  [...named].filter((name) => !used.has(name)).map((name) => `${what} ${name} is needed no more`);

interface Rule {
  readonly name: string;
  /** One line for each fault. `whole` is false for the small trees, in which not every exception can be needed. */
  readonly check: (tree: Tree, whole: boolean) => string[];
  /** A tree that breaks it, and what must be found there: substrings, as many as there are faults. */
  readonly broken: Sources;
  readonly finds: readonly string[];
}

const rules: readonly Rule[] = [
  {
    name: "a module is entered only through its module, service, dto, errors and events (and the heart's and the database's own doors)",
    check: ({ files }, whole) => {
      const used = new Set<string>();
      const faults = files.flatMap(({ path, imports }) =>
        imports.flatMap((to) => {
          const [from, room] = [roomOf(path), roomOf(to)];
          if (
            !path.startsWith('src/') ||
            !/^src\/[^/]+\//.test(to) ||
            from === room ||
            OPEN.includes(room)
          )
            return [];
          if (DOOR.test(to) || OWN_DOORS[room]?.includes(basename(to))) return [];
          if (DOOR_EXCEPTIONS.some(([one, other]) => one === path && other === to)) {
            used.add(`${path} -> ${to}`);
            return [];
          }
          return [`${path} -> ${to}`];
        }),
      );
      const named = DOOR_EXCEPTIONS.map(([from, to]) => `${from} -> ${to}`);
      return faults.concat(whole ? unused('the exception', named, used) : []);
    },
    broken: {
      'src/orders/orders.service.ts': `import { User } from '../users/user.entity.js'; import { X } from '../users/users.service.js';`,
      'src/outbox/outbox.service.ts': `const late = import('../health/health.controller.js');`,
      'src/http/fields.ts': `type Store = import('../cache/redis.store.js').RedisStore;`,
    },
    finds: [
      'src/orders/orders.service.ts -> src/users/user.entity.ts',
      'src/outbox/outbox.service.ts -> src/health/health.controller.ts',
      'src/http/fields.ts -> src/cache/redis.store.ts',
    ],
  },
  {
    name: 'no file imports itself through others, types included',
    check: (tree) => cycles(edgesBetween(tree.in('src'), (path) => path)),
    broken: {
      'src/a/one.ts': `import { two } from './two.js';`,
      'src/a/two.ts': `export type { Three } from './three.js';`,
      'src/a/three.ts': `import type { One } from './one.js';`,
      'src/a/four.ts': `import { one } from './one.js';`,
    },
    finds: ['src/a/one.ts <-> src/a/three.ts <-> src/a/two.ts'],
  },
  {
    name: 'no room imports itself through others',
    check: (tree) => {
      const edges = edgesBetween(tree.in('src'), roomOf);
      for (const [room, targets] of edges) targets.delete(room);
      return cycles(edges);
    },
    broken: {
      'src/a/one.ts': `import { two } from '../b/two.js'; import './own.js';`,
      'src/b/three.ts': `import { four } from '../a/four.js';`,
    },
    finds: ['a <-> b'],
  },
  {
    name: 'nothing waits for itself with forwardRef',
    check: (tree) =>
      search(tree.in('src'), (node) =>
        ts.isIdentifier(node) ? word(node, 'forwardRef') : undefined,
      ),
    broken: { 'src/a/a.module.ts': `imports([forwardRef(() => B)]);` },
    finds: ['forwardRef'],
  },
  {
    name: 'orders -> auth -> users, never back, and nothing below them knows a business module',
    check: (tree) =>
      tree.in('src').flatMap(({ path, imports }) => {
        const from = roomOf(path);
        if (from === 'app.module.ts' || from === 'app.ts') return [];
        const may = BUSINESS.includes(from) ? BUSINESS.slice(0, BUSINESS.indexOf(from) + 1) : [];
        const wrong = imports.filter(
          (to) => BUSINESS.includes(roomOf(to)) && !may.includes(roomOf(to)),
        );
        return wrong.map((to) => `${path} -> ${to}`);
      }),
    broken: {
      'src/users/users.service.ts': `import { AuthService } from '../auth/auth.service.js';`,
      'src/auth/auth.service.ts': `import { OrdersService } from '../orders/orders.service.js'; import '../users/users.service.js';`,
      'src/http/pagination.ts': `import { Order } from '../orders/orders.dto.js';`,
    },
    finds: [
      'src/users/users.service.ts ->',
      'src/auth/auth.service.ts ->',
      'src/http/pagination.ts ->',
    ],
  },
  {
    name: 'cache/ imports nothing of this service, so that it could be lifted out',
    check: (tree) =>
      tree
        .in('src/cache')
        .flatMap(({ path, imports }) =>
          imports
            .filter((to) => /^(src|migrations|test)\//.test(to) && roomOf(to) !== 'cache')
            .map((to) => `${path} -> ${to}`),
        ),
    broken: {
      'src/cache/cache.module.ts': `import { Config } from '../config.js'; import { problems } from '../http/problem.js'; import './own.js'; import 'redis';`,
    },
    finds: ['src/config.ts', 'src/http/problem.ts'],
  },
  {
    name: 'the environment is read in config.ts alone',
    check: (tree) =>
      search(
        tree.in('src').filter(({ path }) => path !== 'src/config.ts'),
        (node) => {
          if (
            ts.isPropertyAccessExpression(node) &&
            node.name.text === 'env' &&
            node.expression.getText() === 'process'
          )
            return node.getText();
          if (ts.isElementAccessExpression(node) && /^process\[.env.\]$/.test(node.getText()))
            return node.getText();
          if (ts.isVariableDeclaration(node) && node.initializer?.getText() === 'process')
            return ts.isObjectBindingPattern(node.name) ? node.getText() : undefined;
          if (
            ts.isImportDeclaration(node) &&
            /^['"](node:)?process['"]$/.test(node.moduleSpecifier.getText())
          )
            return node.getText();
          return undefined;
        },
      ),
    broken: {
      'src/config.ts': `process.env.PORT;`,
      'src/a.ts': `process.env.PORT; /* process.env in a comment */ 'process.env';`,
      'src/b.ts': `process['env'].PORT; const { env } = process;`,
      'src/c.ts': `import { env } from 'node:process';`,
    },
    finds: ['src/a.ts', 'src/b.ts', 'src/b.ts', 'src/c.ts'],
  },
  {
    name: 'only the unit of work commits what a request changed',
    check: (tree, whole) => {
      const used = new Set<string>();
      const faults = search(tree.in('src'), (node, { path }) => {
        const name = calledName(node);
        const call = /^(transaction|startTransaction|commitTransaction)$/.test(name ?? '')
          ? name
          : undefined;
        const found = call ?? TRANSACTION_SQL.exec(sqlOf(node) ?? '')?.[1];
        if (found === undefined) return undefined;
        if (path in COMMITTERS) return void used.add(path);
        return found;
      });
      return faults.concat(whole ? unused('the exception', Object.keys(COMMITTERS), used) : []);
    },
    broken: {
      'src/database/unit-of-work.ts': `runner.commitTransaction();`,
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
    check: (tree) => {
      const cached = new Map<string, string>();
      for (const file of tree.in('src'))
        visit(file.ast, (node) => {
          if (!ts.isClassDeclaration(node) || !node.name) return;
          const said = Object.fromEntries(decoratorsOf(node));
          if ('Cached' in said) cached.set(node.name.text, said.Entity ?? '');
        });
      const tables = [...cached.values()].filter(Boolean).join('|') || '-';
      const sql = new RegExp(
        `\\b(INSERT\\s+INTO|UPDATE|DELETE\\s+FROM|TRUNCATE)\\s+"?(${tables})\\b`,
        'i',
      );
      const others = tree.in('src').filter(({ path }) => path !== 'src/database/unit-of-work.ts');
      return search(others, (node) => {
        const found = sql.exec(sqlOf(node) ?? '')?.[0];
        if (found !== undefined) return found;
        if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression))
          return undefined;
        const { name, expression: receiver } = node.expression;
        if (
          /^(save|upsert|softDelete|softRemove|restore|increment|decrement|createQueryRunner)$/.test(
            name.text,
          )
        )
          return `${receiver.getText()}.${name.text}`;
        const first = node.arguments[0]?.getText() ?? '';
        const writes =
          /^(insert|update|delete|remove|into|from)$/.test(name.text) && cached.has(first);
        return writes && receiver.getText() !== 'transaction' ? node.getText() : undefined;
      });
    },
    broken: {
      'src/users/user.entity.ts': `@Entity('users') @Cached({ name: 'user' }) export class User {}`,
      'src/users/users.service.ts': `transaction.insert(User, row); manager.insert(User, row); manager.insert(Other, row); repository.save(row);`,
      'src/auth/auth.service.ts':
        'query(`UPDATE users SET roles = 1`); query(`SELECT 1 FROM users`); query(`UPDATE outbox SET a = ${b}`);',
      'src/orders/orders.service.ts': 'query(`DELETE FROM users WHERE id = ${id}`);',
    },
    finds: ['manager.insert(User', 'repository.save', 'UPDATE users', 'DELETE FROM users'],
  },
  {
    name: 'no TypeORM relations: modules know each other by id, foreign keys live in SQL',
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
    name: 'business modules throw problems of their own catalogue, not HTTP exceptions',
    check: (tree) =>
      search(tree.in(...BUSINESS.map((room) => `src/${room}`)), (node) =>
        ts.isNewExpression(node) &&
        /(Http|NotFound|BadRequest|Conflict|Forbidden|Unauthorized|\w+)Exception$/.test(
          node.expression.getText(),
        )
          ? node.expression.getText()
          : undefined,
      ),
    broken: {
      'src/orders/orders.service.ts': `throw new NotFoundException(); throw problems.notFound();`,
    },
    finds: ['NotFoundException'],
  },
  {
    name: 'no barrels',
    check: (tree) =>
      tree
        .in('src', 'migrations', 'test', 'scripts')
        .filter(({ path, ast }) => {
          const onlyExports =
            ast.statements.length > 0 && ast.statements.every(ts.isExportDeclaration);
          return /^index\./.test(basename(path)) || onlyExports;
        })
        .map(({ path }) => path),
    broken: {
      'src/users/index.ts': '',
      'src/users/all.ts': `export * from './user.entity.js';`,
      'src/users/a.ts': 'export const a = 1;',
    },
    finds: ['src/users/index.ts', 'src/users/all.ts'],
  },
  {
    name: 'no folder for what has no home',
    check: ({ files }) =>
      files
        .filter(({ path }) =>
          /(^|\/)(utils?|common|shared|helpers?|core|misc|lib|interfaces|types)\//.test(path),
        )
        .map(({ path }) => path),
    broken: { 'src/utils/text.ts': '', 'src/orders/helpers/a.ts': '', 'src/utilities.ts': '' },
    finds: ['src/utils/text.ts', 'src/orders/helpers/a.ts'],
  },
  {
    name: 'no interface of ours has one implementation',
    check: (tree) => {
      const ours = new Map<string, string[]>();
      for (const { ast } of tree.in('src'))
        visit(
          ast,
          (node) => void (ts.isInterfaceDeclaration(node) && ours.set(node.name.text, [])),
        );
      for (const { ast } of tree.in('src'))
        visit(ast, (node) => {
          if (!ts.isClassDeclaration(node)) return;
          for (const clause of node.heritageClauses ?? [])
            if (clause.token === ts.SyntaxKind.ImplementsKeyword)
              for (const type of clause.types)
                ours.get(type.expression.getText())?.push(node.name?.text ?? '');
        });
      return [...ours]
        .filter(([, classes]) => classes.length === 1)
        .map(([name, [by]]) => `${name} by ${by}`);
    },
    broken: {
      'src/a.ts': `interface A {} class One implements A {} interface B {} class C implements B {} class D implements B {}`,
    },
    finds: ['A by One'],
  },
  {
    name: 'classes are called by what they are: no Manager, Helper, Util, Impl, Processor',
    check: (tree) =>
      search(tree.in('src'), (node) =>
        ts.isClassDeclaration(node) || ts.isInterfaceDeclaration(node)
          ? /^\w*(Manager|Helpers?|Utils?|Impl|Processor|Data\d|Handler\d)$/.exec(
              node.name?.text ?? '',
            )?.[0]
          : undefined,
      ),
    broken: { 'src/a.ts': `class OrderManager {} class OrderImpl {} class Order {}` },
    finds: ['OrderManager', 'OrderImpl'],
  },
  {
    name: 'file and folder names are kebab-case',
    check: ({ files }) => {
      const name = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*$/;
      return files
        .filter(({ path }) => !path.split('/').every((part) => name.test(part)))
        .map(({ path }) => path);
    },
    broken: {
      'src/users/userEntity.ts': '',
      'src/Users/a.ts': '',
      'src/a_b.ts': '',
      'src/a-b.dto.ts': '',
      'migrations/17-x.ts': '',
    },
    finds: ['src/users/userEntity.ts', 'src/Users/a.ts', 'src/a_b.ts'],
  },
  {
    name: 'a file opens with a comment of what it owns',
    check: (tree) =>
      tree
        .in('src', 'migrations', 'scripts')
        .filter(({ text }) => {
          const [first] =
            ts.getLeadingCommentRanges(
              text.replace(/^#!.*\n/, (line) => ' '.repeat(line.length)),
              0,
            ) ?? [];
          return !first || text.slice(first.pos, first.end).replace(/[\s*/]/g, '').length < 10;
        })
        .map(({ path }) => path),
    broken: {
      'src/a.ts': 'export const a = 1; // what it is, but too late',
      'src/b.ts': '/** b */\nexport const b = 1;',
      'src/c.ts':
        '/** What this file owns and the invariant that it protects. */\nexport const c = 1;',
    },
    finds: ['src/a.ts', 'src/b.ts'],
  },
  {
    name: 'fewer than 15 % of the files have 15 lines or fewer',
    check: (tree) => {
      const all = tree.in('src');
      const short = all.filter(({ lines }) => lines <= 15);
      return short.length < all.length * 0.15
        ? []
        : [`${short.length} of ${all.length}: ${short.map(({ path }) => path).join(' ')}`];
    },
    broken: {
      'src/a.ts': 'short\n'.repeat(15),
      'src/b.ts': 'long\n'.repeat(16),
      'src/c.ts': 'long\n'.repeat(90),
    },
    finds: ['1 of 3: src/a.ts'],
  },
  {
    name: `no file passes ${MOST_LINES} lines`,
    check: (tree) =>
      tree
        .in('src', 'migrations')
        .filter(({ lines }) => lines > MOST_LINES)
        .map(({ path, lines }) => `${path}: ${lines}`),
    broken: {
      'src/a.ts': 'long\n'.repeat(MOST_LINES + 1),
      'src/b.ts': 'long\n'.repeat(MOST_LINES),
    },
    finds: [`src/a.ts: ${MOST_LINES + 1}`],
  },
  {
    name: 'nothing is typed any',
    check: (tree) =>
      search(tree.in('src', 'migrations', 'scripts'), (node) =>
        node.kind === ts.SyntaxKind.AnyKeyword ? node.parent.getText().slice(0, 60) : undefined,
      ),
    broken: { 'src/a.ts': `const a: any = 1; const b = a as any[]; /* any */ const c = 'any';` },
    finds: ['a: any', 'any[]'],
  },
  {
    name: 'nothing is left to be done later',
    check: ({ files }) => {
      // Spelled apart, so that this file may stand in the tree that it reads.
      const later = new RegExp(
        `\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`,
      );
      return files.flatMap(({ path, text }) =>
        later.test(text) ? [`${path}: ${later.exec(text)?.[0]}`] : [],
      );
    },
    broken: {
      'src/a.ts': `// TO${'DO'}: write it`,
      'test/a.spec.ts': `/* FIX${'ME'} */`,
      'src/b.ts': '// mastodon',
    },
    finds: ['src/a.ts', 'test/a.spec.ts'],
  },
  {
    name: 'no lint rule is off for a whole file, and no type error is silenced',
    check: ({ files }) =>
      files.flatMap(({ path, text }) => {
        const found = new RegExp(`eslint-${'disable'} |@ts-${'nocheck'}|@ts-${'ignore'}`).exec(
          text,
        )?.[0];
        return found ? [`${path}: ${found}`] : [];
      }),
    broken: {
      'src/a.ts': `/* eslint-${'disable'} no-console */`,
      'src/b.ts': `// @ts-${'ignore'}`,
      'src/c.ts': `// eslint-${'disable'}-next-line no-console`,
    },
    finds: ['src/a.ts', 'src/b.ts'],
  },
  {
    name: 'every test runs: none is skipped, none runs alone',
    check: (tree) =>
      search(tree.in('test'), (node) => {
        if (!ts.isCallExpression(node)) return undefined;
        const name = node.expression.getText();
        return /^(it|test|describe)\b.*\.(only|skip|todo)\b|^(xit|xtest|xdescribe|fit|fdescribe)$/.exec(
          name,
        )?.[0];
      }),
    broken: {
      'test/a.spec.ts': `it.only('a', run); describe.skip('b', run); it.each([1]).skip('c', run); xit('d', run); it('e', run);`,
    },
    finds: ['it.only', 'describe.skip', '.skip', 'xit'],
  },
  {
    name: 'tests lie in the folder of what they test',
    check: (tree) => {
      const rooms = new Set([
        ...tree.in('src').map(({ path }) => roomOf(path)),
        'support',
        'bench',
        'browser',
        'campaign',
        'openapi',
      ]);
      return tree
        .in('test')
        .filter(({ path }) => path.split('/').length > 2 && !rooms.has(roomOf(path)))
        .map(({ path }) => path);
    },
    broken: {
      'src/users/users.service.ts': '',
      'test/users/users.spec.ts': '',
      'test/unit/users.spec.ts': '',
      'test/a.spec.ts': '',
    },
    finds: ['test/unit/users.spec.ts'],
  },
];

const word = (node: ts.Identifier, text: string): string | undefined =>
  node.text === text ? text : undefined;

/** Each decorator's name with its first argument, when that is a string. */
function decoratorsOf(node: ts.ClassDeclaration): [string, string][] {
  return (ts.getDecorators(node) ?? []).map(({ expression }) => {
    const first = ts.isCallExpression(expression) ? expression.arguments[0] : undefined;
    return [
      calledName(expression) ?? expression.getText(),
      first && ts.isStringLiteral(first) ? first.text : '',
    ];
  });
}

const ROOT = fileURLToPath(new URL('..', import.meta.url));

function readSources(): Sources {
  const paths = ['src', 'migrations', 'test', 'scripts'].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((path) =>
      posix.join(folder, path),
    ),
  );
  const sources = paths.filter((path) => /\.(ts|mjs)$/.test(path)).sort();
  return Object.fromEntries(sources.map((path) => [path, readFileSync(join(ROOT, path), 'utf8')]));
}

describe('the house', () => {
  const tree = new Tree(readSources());

  it('is read whole', () => {
    expect(tree.in('src').length).toBeGreaterThan(60);
    const known = new Set(tree.files.map(({ path }) => path));
    const astray = tree
      .in('src')
      .flatMap(({ path, imports }) =>
        imports
          .filter((to) => to.startsWith('src/') && !known.has(to))
          .map((to) => `${path} -> ${to}`),
      );
    expect(astray).toEqual([]);
  });

  it.each(rules)('$name', ({ check }) => {
    expect(check(tree, true)).toEqual([]);
  });
});

describe('a tree that breaks the rule is found out', () => {
  it.each(rules)('$name', ({ check, broken, finds }) => {
    const faults = check(new Tree(broken), false);
    expect(faults).toEqual(finds.map((find) => expect.stringContaining(find)));
  });

  it('an exception that nothing needs is a fault', () => {
    const withExceptions = rules.filter(
      ({ check }) => check(new Tree({}), true).length > check(new Tree({}), false).length,
    );
    expect(withExceptions).toHaveLength(2);
  });
});
