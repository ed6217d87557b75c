/** Rules about how the code is written, as far as a parser can check docs/style.md. */
import { basename } from 'node:path';
import ts from 'typescript';
import { search, visit } from '../support/source-tree.js';
import { type Exceptions, type Rule, withExceptions } from './rule.js';

const MAX_FILE_LINES = 360;
const MAX_COLUMNS = 100;
const MAX_HEADER_LINES = 5;

const SKIPPING_FILES: Exceptions = {
  'test/support/describe-with-rabbitmq.ts':
    'skips where no RabbitMQ is installed, with the reason in the name',
};

/** A long URL, an import, a test's name, a line that is one text: no formatter can wrap them. */
const UNWRAPPABLE = /https?:\/\/\S{40}|^import |^\s*(?:it|describe)\b|^\s*(?:name: )?['"`]/;

export const HABIT_RULES: readonly Rule[] = [
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
          ) {
            return node.getText();
          }
          if (ts.isElementAccessExpression(node) && /^process\[.env.\]$/.test(node.getText())) {
            return node.getText();
          }
          if (ts.isVariableDeclaration(node) && node.initializer?.getText() === 'process') {
            return ts.isObjectBindingPattern(node.name) ? node.getText() : undefined;
          }
          if (
            ts.isImportDeclaration(node) &&
            /^['"](node:)?process['"]$/.test(node.moduleSpecifier.getText())
          ) {
            return node.getText();
          }
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
      for (const { ast } of tree.in('src')) {
        visit(
          ast,
          (node) => void (ts.isInterfaceDeclaration(node) && ours.set(node.name.text, [])),
        );
      }
      for (const { ast } of tree.in('src')) {
        visit(ast, (node) => {
          if (!ts.isClassDeclaration(node)) return;
          for (const clause of node.heritageClauses ?? []) {
            if (clause.token === ts.SyntaxKind.ImplementsKeyword) {
              for (const type of clause.types) {
                ours.get(type.expression.getText())?.push(node.name?.text ?? '');
              }
            }
          }
        });
      }
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
    name: 'a file opens with a comment of at most five lines that says what it is for',
    check: (tree) =>
      tree.in('src', 'migrations', 'scripts').flatMap(({ path, text }) => {
        const lines = headerLines(text);
        if (lines.join('').length < 10) return [`${path}: no header`];
        return lines.length > MAX_HEADER_LINES ? [`${path}: ${lines.length} lines`] : [];
      }),
    broken: {
      'src/a.ts': 'export const a = 1; // what it is, but too late',
      'src/b.ts': '/** b */\nexport const b = 1;',
      'src/c.ts':
        '/** What this file owns and the invariant that it protects. */\nexport const c = 1;',
      'src/d.ts': `/**\n${' * The next line of a long header.\n'.repeat(6)} */\n`,
    },
    finds: ['src/a.ts: no header', 'src/b.ts: no header', 'src/d.ts: 6 lines'],
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
    name: `no file passes ${MAX_FILE_LINES} lines`,
    check: (tree) =>
      tree
        .in('src', 'migrations')
        .filter(({ lines }) => lines > MAX_FILE_LINES)
        .map(({ path, lines }) => `${path}: ${lines}`),
    broken: {
      'src/a.ts': 'long\n'.repeat(MAX_FILE_LINES + 1),
      'src/b.ts': 'long\n'.repeat(MAX_FILE_LINES),
    },
    finds: [`src/a.ts: ${MAX_FILE_LINES + 1}`],
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
    check: (tree, isWholeTree) =>
      withExceptions(SKIPPING_FILES, isWholeTree, (isExcepted) =>
        search(tree.in('test'), (node, { path }) => {
          if (!ts.isCallExpression(node)) return undefined;
          const name = node.expression.getText();
          const modified = /^(it|test|describe)\b.*\.(only|skip|todo)\b/.exec(name);
          const renamed = /^(xit|xtest|xdescribe|fit|fdescribe)$/.exec(name);
          const found = (modified ?? renamed)?.[0];
          return found === undefined || isExcepted(path) ? undefined : found;
        }),
      ),
    broken: {
      'test/a.spec.ts': `it.only('a', run); describe.skip('b', run); it.each([1]).skip('c', run); xit('d', run); it('e', run);`,
    },
    finds: ['it.only', 'describe.skip', '.skip', 'xit'],
  },
  {
    name: 'lines that can be wrapped have at most 100 columns',
    check: (tree) =>
      tree.in('src', 'scripts', 'test').flatMap(({ path, text }) =>
        text.split('\n').flatMap((line, index) => {
          const isLong = line.length > MAX_COLUMNS && !UNWRAPPABLE.test(line);
          return isLong ? [`${path}:${index + 1}`] : [];
        }),
      ),
    broken: {
      'src/a.ts': `short\n${'x'.repeat(101)}\n`,
      'src/b.ts': `// https://example.org/${'x'.repeat(90)}`,
    },
    finds: ['src/a.ts:2'],
  },
  {
    name: 'no test asserts a duration',
    check: (tree) =>
      search(tree.in('test'), (node, { path }) => {
        if (!path.endsWith('.spec.ts') || !ts.isCallExpression(node)) return undefined;
        const name = /\.(toBeLessThan(?:OrEqual)?)$/.exec(node.expression.getText())?.[1];
        const isTimed = /(performance|Date)\.now\(\)|[eE]lapsed|took|Ms\b/.test(node.getText());
        return name && isTimed ? node.getText().slice(0, 80) : undefined;
      }),
    broken: {
      'test/a.spec.ts': `expect(performance.now() - began).toBeLessThan(400); expect(rows).toBeLessThan(5);`,
    },
    finds: ['performance.now()'],
  },
];

/** The lines of the comment that a file begins with, without its marks. */
function headerLines(text: string): string[] {
  // A hashbang is not a comment to the parser: blank it out, so that positions stay.
  const source = text.replace(/^#!.*\n/, (line) => ' '.repeat(line.length));
  const [first] = ts.getLeadingCommentRanges(source, 0) ?? [];
  if (!first) return [];
  const lines = source.slice(first.pos, first.end).split('\n');
  return lines.map((line) => line.replace(/^[\s/*]+|[\s/*]+$/g, '')).filter((line) => line !== '');
}
