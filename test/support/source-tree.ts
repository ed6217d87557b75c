/**
 * The repository's source as data, for tests that check rules about the code: each file with its
 * syntax tree (TypeScript's own parser) and the files that it imports, types included.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { REPOSITORY } from './repository.js';

/** Path from the repository's root → text. */
export type Sources = Readonly<Record<string, string>>;

export interface SourceFile {
  readonly path: string;
  readonly text: string;
  readonly ast: ts.SourceFile;
  readonly lines: number;
  /** Imported files by path from the root; packages by name. */
  readonly imports: readonly string[];
}

const ROOT = fileURLToPath(REPOSITORY);
const FOLDERS = ['src', 'migrations', 'test', 'scripts'];

export class SourceTree {
  readonly files: readonly SourceFile[];

  constructor(sources: Sources) {
    this.files = Object.entries(sources).map(([path, text]) => {
      const ast = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
      const lines = text.trimEnd().split('\n').length;
      return { path, text, ast, lines, imports: importsOf(path, ast) };
    });
  }

  /** The repository as it is on disk. */
  static ofRepository(): SourceTree {
    const paths = FOLDERS.flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((path) =>
        posix.join(folder, path),
      ),
    );
    const sources = paths.filter((path) => /\.(ts|mjs)$/.test(path)).sort();
    return new SourceTree(
      Object.fromEntries(sources.map((path) => [path, readFileSync(join(ROOT, path), 'utf8')])),
    );
  }

  /** The files below these folders. */
  in(...folders: string[]): readonly SourceFile[] {
    return this.files.filter(({ path }) => folders.some((folder) => path.startsWith(`${folder}/`)));
  }
}

function importsOf(path: string, ast: ts.SourceFile): string[] {
  const found: string[] = [];
  const add = (node: ts.Node | undefined): void => {
    if (!node || !ts.isStringLiteralLike(node)) return;
    const isRelative = node.text.startsWith('.');
    found.push(
      isRelative ? posix.join(dirname(path), node.text.replace(/\.js$/, '.ts')) : node.text,
    );
  };
  visit(ast, (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
      add(node.moduleSpecifier);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0]);
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      add(node.argument.literal);
    }
  });
  return found;
}

/** Calls `see` for the node and everything below it. */
export function visit(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  ts.forEachChild(node, (child) => visit(child, see));
}

/** One line `<path>: <word>` for each node for which `violation` returns a word. */
export function search(
  files: readonly SourceFile[],
  violation: (node: ts.Node, file: SourceFile) => string | undefined,
): string[] {
  const lines: string[] = [];
  for (const file of files) {
    visit(file.ast, (node) => {
      const word = violation(node, file);
      if (word !== undefined) lines.push(`${file.path}: ${word}`);
    });
  }
  return lines;
}

/** `save` for both `save()` and `repository.save()`; undefined for what is not a call. */
export function calledName(node: ts.Node): string | undefined {
  if (!ts.isCallExpression(node)) return undefined;
  const { expression } = node;
  if (ts.isPropertyAccessExpression(expression)) return expression.name.text;
  return ts.isIdentifier(expression) ? expression.text : undefined;
}

/** The text of a string or template; it may be SQL. */
export function stringOf(node: ts.Node): string | undefined {
  if (ts.isStringLiteralLike(node)) return node.text;
  return ts.isTemplateExpression(node) ? node.getText().slice(1) : undefined;
}

/** Each decorator's name with its first argument, when that is a string. */
export function decoratorsOf(node: ts.ClassDeclaration): [string, string][] {
  return (ts.getDecorators(node) ?? []).map(({ expression }) => {
    const first = ts.isCallExpression(expression) ? expression.arguments[0] : undefined;
    const name = calledName(expression) ?? expression.getText();
    return [name, first && ts.isStringLiteral(first) ? first.text : ''];
  });
}

/** Which group (a file, a module, a layer) imports which, by the name that `nameOf` gives. */
export function edgesBetween(
  files: readonly SourceFile[],
  nameOf: (path: string) => string,
): Map<string, Set<string>> {
  const edges = new Map<string, Set<string>>();
  for (const { path, imports } of files) {
    const targets = edges.get(nameOf(path)) ?? new Set<string>();
    for (const imported of imports) {
      if (imported.startsWith('src/')) targets.add(nameOf(imported));
    }
    edges.set(nameOf(path), targets);
  }
  return edges;
}

/** Each set of nodes that reach each other, as `a <-> b`. */
export function cycles(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const reached = new Map([...edges.keys()].map((node) => [node, reachableFrom(edges, node)]));
  const rings = [...reached]
    .filter(([node, targets]) => targets.has(node))
    .map(([node, targets]) => [...targets].filter((target) => reached.get(target)?.has(node)));
  return [...new Set(rings.map((ring) => ring.sort().join(' <-> ')))];
}

function reachableFrom(edges: ReadonlyMap<string, ReadonlySet<string>>, node: string): Set<string> {
  const seen = new Set<string>();
  const open = [...(edges.get(node) ?? [])];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (seen.has(next)) continue;
    seen.add(next);
    open.push(...(edges.get(next) ?? []));
  }
  return seen;
}
