/** Rules about folders: who may import whom, and where things live (docs/architecture.md). */
import { basename } from 'node:path';
import ts from 'typescript';
import {
  calledName,
  cycles,
  decoratorsOf,
  edgesBetween,
  search,
  type SourceFile,
  visit,
} from '../support/source-tree.js';
import { type Exceptions, type Rule, withExceptions } from './rule.js';

/** In the order in which they may import: a module imports the ones before it. */
export const BUSINESS = ['users', 'auth', 'orders'];

/** `users`, `platform/cache`, `cli`; the file itself when it lies in src/. */
export function moduleOf(path: string): string {
  const [top = '', first = path, second = ''] = path.split('/');
  if (top !== 'src') return path;
  return first === 'platform' ? `platform/${second}` : first;
}

const isBusiness = (module: string): boolean => BUSINESS.includes(module);
const isPlatform = (module: string): boolean => module.startsWith('platform/');
const isRootFile = (module: string): boolean => module.endsWith('.ts');

/** What other modules may import of a module. */
const PUBLIC_FILE = /\.(module|service|dto|errors|decorator)\.ts$/;
/** Platform folders whose public API has more files, and those that are open as a whole. */
const PUBLIC_API: Readonly<Record<string, readonly string[] | 'all'>> = {
  'platform/access': 'all',
  'platform/cache': [
    'cached-repository.ts',
    'cache-store.ts',
    'invalidation.ts',
    'membership.ts',
    'read-context.ts',
  ],
  'platform/database': [
    'unit-of-work.ts',
    'transaction.ts',
    'columns.ts',
    'database-probe.ts',
    'replicas.ts',
    'migrate.ts',
    'bounded-page.ts',
    'oldest-rows.ts',
    'purge.ts',
    'queue-floors.ts',
    'sql-state.ts',
  ],
  'platform/inbox': ['consumer-lock.ts'],
  'platform/http': 'all',
  'platform/timing': 'all',
};
const PUBLIC_API_EXCEPTIONS: Exceptions = {
  'src/app.ts -> src/platform/telemetry/logger.ts':
    'the logger exists before the container, which logs its own start',
  'src/main.ts -> src/platform/telemetry/logger.ts': 'the same logger, for a start that fails',
  'src/app.ts -> src/platform/telemetry/tracing.ts':
    'hooks into the HTTP server when it is made, and is loaded only when a collector is named',
  'src/app.ts -> src/platform/telemetry/metrics.ts':
    'hooks into the HTTP server when it is made, to measure every request',
  'src/app.ts -> src/platform/telemetry/security-log.ts':
    'hooks into the HTTP server when it is made, to see every response',
  'src/platform/health/health.controller.ts -> src/platform/outbox/outbox-relay.ts':
    'readiness reports whether the broker is connected',
};

function isPublic(imported: string): boolean {
  const api = PUBLIC_API[moduleOf(imported)] ?? [];
  return PUBLIC_FILE.test(imported) || api === 'all' || api.includes(basename(imported));
}

/** Its dictionaries take time and memory: no process that checks no password loads them. */
const ESTIMATOR = 'src/auth/passwords/password-estimates.mjs';

/** Whether the file loads the other as soon as it is loaded itself. */
const hasStaticImport = (ast: ts.SourceFile, imported: string): boolean =>
  ast.statements.some(
    (statement) =>
      ts.isImportDeclaration(statement) &&
      ts.isStringLiteral(statement.moduleSpecifier) &&
      basename(statement.moduleSpecifier.text) === basename(imported),
  );

/** Class names with one of these decorators. */
function classesWith(file: SourceFile, decorators: RegExp): string[] {
  const names: string[] = [];
  visit(file.ast, (node) => {
    if (!ts.isClassDeclaration(node) || !node.name) return;
    if (decoratorsOf(node).some(([name]) => decorators.test(name))) names.push(node.name.text);
  });
  return names;
}

export const LAYER_RULES: readonly Rule[] = [
  {
    name: 'a module is imported only through its public API: module, service, dto, errors, decorators and the listed files',
    check: ({ files }, isWholeTree) =>
      withExceptions(PUBLIC_API_EXCEPTIONS, isWholeTree, (isExcepted) =>
        files.flatMap(({ path, imports }) => {
          const from = moduleOf(path);
          // Operator commands are the inside of the service: they work on what no request may.
          if (!path.startsWith('src/') || from === 'cli') return [];
          return imports
            .filter((imported) => /^src\/[^/]+\//.test(imported) && moduleOf(imported) !== from)
            .filter((imported) => !isPublic(imported))
            .map((imported) => `${path} -> ${imported}`)
            .filter((edge) => !isExcepted(edge));
        }),
      ),
    broken: {
      'src/orders/orders.service.ts': `import { User } from '../users/user.entity.js'; import { X } from '../users/users.service.js';`,
      'src/platform/outbox/outbox.service.ts': `const late = import('../health/health.controller.js');`,
      'src/platform/http/validation/fields.ts': `type Store = import('../../cache/store/redis/redis-store.js').RedisStore;`,
    },
    finds: [
      'src/orders/orders.service.ts -> src/users/user.entity.ts',
      'src/platform/outbox/outbox.service.ts -> src/platform/health/health.controller.ts',
      'src/platform/http/validation/fields.ts -> src/platform/cache/store/redis/redis-store.ts',
    ],
  },
  {
    name: 'business modules import in one direction, orders → auth → users, and the platform imports none of them',
    check: (tree) =>
      tree.in('src').flatMap(({ path, imports }) => {
        const from = moduleOf(path);
        if (from === 'cli' || isRootFile(from)) return [];
        const allowed = isBusiness(from) ? BUSINESS.slice(0, BUSINESS.indexOf(from) + 1) : [];
        return imports
          .filter((imported) => isBusiness(moduleOf(imported)))
          .filter((imported) => !allowed.includes(moduleOf(imported)))
          .map((imported) => `${path} -> ${imported}`);
      }),
    broken: {
      'src/users/users.service.ts': `import { AuthService } from '../auth/auth.service.js';`,
      'src/auth/auth.service.ts': `import { OrdersService } from '../orders/orders.service.js'; import '../users/users.service.js';`,
      'src/platform/http/pagination.ts': `import { Order } from '../../orders/orders.dto.js';`,
    },
    finds: [
      'src/users/users.service.ts ->',
      'src/auth/auth.service.ts ->',
      'src/platform/http/pagination.ts ->',
    ],
  },
  {
    name: 'nothing that the service runs imports an operator command, a script or a test',
    check: (tree) =>
      tree.in('src', 'migrations').flatMap(({ path, imports }) =>
        imports
          .filter((imported) => /^(src\/cli|scripts|test)\//.test(imported))
          .filter((imported) => !(moduleOf(path) === 'cli' && moduleOf(imported) === 'cli'))
          .map((imported) => `${path} -> ${imported}`),
      ),
    broken: {
      'src/cli/outbox.ts': `import './command.js'; import '../../scripts/seed.js';`,
      'src/orders/orders.service.ts': `import '../cli/command.js'; import '../../test/support/random.js';`,
    },
    finds: ['outbox.ts -> scripts/seed.ts', '-> src/cli/command.ts', '-> test/support/random.ts'],
  },
  {
    name: 'the estimator of passwords is loaded by hashing threads alone, at their first estimate',
    check: ({ files }) =>
      files
        .filter(({ path }) => path.startsWith('src/'))
        .flatMap(({ path, ast, imports }) => [
          ...imports
            .filter((imported) => /^@zxcvbn-ts\//.test(imported))
            .filter(() => path !== ESTIMATOR)
            .map((imported) => `${path} -> ${imported}`),
          ...imports
            .filter((imported) => imported === ESTIMATOR)
            .filter(() => !path.endsWith('.worker.mjs') || hasStaticImport(ast, ESTIMATOR))
            .map((imported) => `${path} -> ${imported}`),
          ...imports
            .filter((imported) => imported.endsWith('.worker.mjs'))
            .map((imported) => `${path} -> ${imported}`),
        ]),
    broken: {
      'src/auth/passwords/password-rules.ts': `import { ZxcvbnFactory } from '@zxcvbn-ts/core';`,
      'src/auth/passwords/passwords.service.ts': `await import('./password-estimates.mjs');`,
      'src/auth/passwords/hashing.worker.mjs': `import './password-estimates.mjs';`,
      'src/auth/passwords/passwords.worker.mjs': `await import('./password-estimates.mjs');`,
      'src/auth/auth.module.ts': `import './passwords/passwords.worker.mjs';`,
    },
    finds: [
      'password-rules.ts -> @zxcvbn-ts/core',
      'passwords.service.ts -> src/auth/passwords/password-estimates.mjs',
      'hashing.worker.mjs -> src/auth/passwords/password-estimates.mjs',
      'auth.module.ts -> src/auth/passwords/passwords.worker.mjs',
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
    name: 'no module imports itself through others',
    check: (tree) => {
      const edges = edgesBetween(tree.in('src'), moduleOf);
      for (const [module, targets] of edges) targets.delete(module);
      return cycles(edges);
    },
    broken: {
      'src/platform/a/one.ts': `import { two } from '../b/two.js'; import './local.js';`,
      'src/platform/b/three.ts': `import { four } from '../a/four.js';`,
    },
    finds: ['platform/a <-> platform/b'],
  },
  {
    name: 'no provider waits for itself with forwardRef',
    check: (tree) =>
      search(tree.in('src'), (node) =>
        ts.isIdentifier(node) && node.text === 'forwardRef' ? node.text : undefined,
      ),
    broken: { 'src/a/a.module.ts': `imports([forwardRef(() => B)]);` },
    finds: ['forwardRef'],
  },
  {
    name: 'cache/ imports nothing of this service but timing/, so that it could be a package',
    check: (tree) =>
      tree.in('src/platform/cache').flatMap(({ path, imports }) =>
        imports
          .filter((imported) => /^(src|migrations|test)\//.test(imported))
          .filter((imported) => !['platform/cache', 'platform/timing'].includes(moduleOf(imported)))
          .map((imported) => `${path} -> ${imported}`),
      ),
    broken: {
      'src/platform/cache/cache.module.ts': `import { Config } from '../../config.js'; import { problems } from '../http/problems/problem.js'; import './local.js'; import '../timing/deadline.js'; import 'redis';`,
    },
    finds: ['src/config.ts', 'src/platform/http/problems/problem.ts'],
  },
  {
    name: 'access/ and timing/ know no HTTP',
    check: (tree) =>
      tree
        .in('src/platform/access', 'src/platform/timing')
        .flatMap(({ path, imports }) =>
          imports
            .filter((imported) => /^(fastify|src\/platform\/http\/)/.test(imported))
            .map((imported) => `${path} -> ${imported}`),
        ),
    broken: {
      'src/platform/access/actor.ts': `import type { FastifyRequest } from 'fastify'; import '../http/problems/problem.js'; import '../database/transaction.js';`,
    },
    finds: ['actor.ts -> fastify', 'actor.ts -> src/platform/http/problems/problem.ts'],
  },
  {
    name: 'a platform folder with providers has a module that names each of them',
    check: (tree) => {
      const platform = tree.in('src/platform');
      return platform.flatMap((file) => {
        const module = moduleOf(file.path);
        const modules = platform.filter(
          ({ path }) => moduleOf(path) === module && path.endsWith('.module.ts'),
        );
        return classesWith(file, /^(Injectable|Controller|Catch)$/)
          .filter((name) => !isNamedIn(modules, name))
          .map((name) => `${file.path}: ${name}`);
      });
    },
    broken: {
      'src/platform/a/a.service.ts': `@Injectable() export class AService {} @Injectable() export class Forgotten {}`,
      'src/platform/a/a.module.ts': `@Module({ providers: [AService] }) export class AModule {}`,
      'src/platform/b/b.filter.ts': `@Catch() export class BFilter {}`,
    },
    finds: ['a.service.ts: Forgotten', 'b.filter.ts: BFilter'],
  },
  {
    name: 'a transaction begins in a service: no controller, guard or pipe uses the unit of work',
    check: (tree) =>
      search(tree.in('src'), (node, { path }) => {
        const mayBegin = /\.service\.ts$/.test(path) || moduleOf(path) === 'platform/database';
        if (mayBegin) return undefined;
        const isUnitOfWork = ts.isParameter(node) && node.type?.getText() === 'UnitOfWork';
        return isUnitOfWork ? node.getText() : undefined;
      }),
    broken: {
      'src/orders/orders.controller.ts': `class C { constructor(private readonly unitOfWork: UnitOfWork) {} }`,
      'src/orders/orders.service.ts': `class S { constructor(private readonly unitOfWork: UnitOfWork) {} }`,
    },
    finds: ['orders.controller.ts: private readonly unitOfWork: UnitOfWork'],
  },
  {
    name: 'business code and operator commands lie in their own folders',
    check: (tree) =>
      tree
        .in('src')
        .map(({ path }) => path)
        .filter((path) => {
          const module = moduleOf(path);
          const isKnown = isBusiness(module) || isPlatform(module) || module === 'cli';
          return !isKnown && !isRootFile(module);
        }),
    broken: { 'src/http/fields.ts': '', 'src/users/users.service.ts': '', 'src/main.ts': '' },
    finds: ['src/http/fields.ts'],
  },
  {
    name: 'tests mirror src/, or lie in support, architecture, verify, bench or docs',
    check: (tree) => {
      const modules = new Set(tree.in('src').map(({ path }) => moduleOf(path)));
      for (const folder of ['support', 'architecture', 'verify', 'bench', 'docs', 'scripts']) {
        modules.add(folder);
      }
      return tree
        .in('test')
        .filter(({ path }) => path.split('/').length > 2)
        .filter(({ path }) => !modules.has(moduleOf(path.replace(/^test\//, 'src/'))))
        .map(({ path }) => path);
    },
    broken: {
      'src/users/users.service.ts': '',
      'src/platform/cache/cache.module.ts': '',
      'test/users/users.spec.ts': '',
      'test/platform/cache/guards.spec.ts': '',
      'test/platform/unit/users.spec.ts': '',
      'test/a.spec.ts': '',
    },
    finds: ['test/platform/unit/users.spec.ts'],
  },
];

const isNamedIn = (modules: readonly SourceFile[], name: string): boolean =>
  modules.some(({ ast }) => {
    let isNamed = false;
    visit(ast, (node) => {
      if (!ts.isIdentifier(node) || node.text !== name) return;
      if (!ts.isImportSpecifier(node.parent)) isNamed = true;
    });
    return isNamed;
  });

/** For rules in other files: calls of a name, wherever they are. */
export const isCallOf = (node: ts.Node, names: RegExp): boolean =>
  names.test(calledName(node) ?? '');
