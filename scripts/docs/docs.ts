/**
 * `npm run docs`: writes the pages of docs/ that are generated from the code, or checks that they
 * are up to date. Tests compare the same pages.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseArguments } from '../../src/cli/arguments.js';
import { CommandError, runCommand } from '../../src/cli/command.js';
import { generateAccess } from './access.js';
import { generateLifecyclePage, LIFECYCLE_PAGE } from './lifecycle.js';
import { generateOpenApi } from './openapi.js';

interface GeneratedDocument {
  readonly name: string;
  readonly file: string;
  readonly generate: () => Promise<string>;
}

const DOCUMENTS: readonly GeneratedDocument[] = [
  { name: 'openapi', file: 'docs/openapi.json', generate: generateOpenApi },
  { name: 'access', file: 'docs/reference/access.md', generate: generateAccess },
  { name: 'lifecycle', file: LIFECYCLE_PAGE, generate: generateLifecyclePage },
];
const NAMES = DOCUMENTS.map(({ name }) => name);

const USAGE = `npm run docs -- [${NAMES.join(' | ')}] [--check]
  (no name)  all documents
  --check    write nothing; exit with 1 when a document is out of date`;

async function run(args: string[]): Promise<number> {
  const { words, flags } = parseArguments(args, { usage: USAGE, flags: ['check'], maxWords: 1 });
  const [name] = words;
  if (name !== undefined && !NAMES.includes(name)) {
    throw new CommandError(`unknown document "${name}"; use one of: ${NAMES.join(', ')}`, 2);
  }
  const documents = DOCUMENTS.filter((document) => name === undefined || document.name === name);
  if (flags.has('check')) return check(documents);
  for (const { file, generate } of documents) {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, await generate());
    console.log(`Wrote ${file}`);
  }
  return 0;
}

/** @returns the exit code */
async function check(documents: readonly GeneratedDocument[]): Promise<number> {
  let exitCode = 0;
  for (const { name, file, generate } of documents) {
    const current = await readFile(file, 'utf8').catch(() => undefined);
    if (current === (await generate())) continue;
    console.log(`${file} is out of date: run "npm run docs -- ${name}"`);
    exitCode = 1;
  }
  return exitCode;
}

void runCommand('docs', { USAGE, run }, process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode;
});
