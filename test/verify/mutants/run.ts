/**
 * `npm run verify -- mutants`: takes away one part of the service after the other, in a scratch
 * copy, and runs the specs that are meant to notice. Exit code 1 when a mutant survives, or when a
 * mutant or its specs no longer fit the source.
 */
import { writeFile } from 'node:fs/promises';
import { format, resolveConfig } from 'prettier';
import { parseArguments, parseWholeNumber } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import { Judge, type Verdict } from './judge.js';
import { chooseHandful, type Mutant } from './mutant.js';
import { MUTANTS, TABLES } from './mutants.js';
import { renderPage } from './page.js';
import { ScratchCopy } from './scratch-copy.js';

const CALL = 'npm run verify -- mutants';
const DAY_MS = 24 * 60 * 60 * 1000;
const MAX_SEED = 1_000_000_000;

export const USAGE = `${CALL} [options]
  --only <names>   these mutants, separated by commas
  --handful <n>    n mutants with quick specs; each seed chooses others
  --seed <n>       decides which; by default the number of today
  --trust-specs    does not run the specs without a mutant first: they are known to pass
  --report <file>  writes the results as a page
  --list           prints the mutants and ends`;

export async function run(argv: string[]): Promise<number> {
  const { options, flags } = parseArguments(argv, {
    usage: USAGE,
    options: ['only', 'handful', 'seed', 'report'],
    flags: ['list', 'trust-specs'],
  });
  const chosen = chooseMutants(options);
  if (flags.has('list')) {
    for (const { name, without } of chosen) console.log(`${name}: ${without}`);
    return 0;
  }
  const copy = await ScratchCopy.create(process.cwd());
  try {
    const verdicts = await judgeAll(chosen, new Judge(copy, flags.has('trust-specs')));
    const killed = verdicts.filter(({ state }) => state === 'killed');
    console.log(`${killed.length} of ${verdicts.length} mutants killed`);
    if (options.report !== undefined) await writeReport(options.report, verdicts);
    return killed.length === verdicts.length ? 0 : 1;
  } finally {
    await copy.remove();
  }
}

async function judgeAll(mutants: readonly Mutant[], judge: Judge): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  for (const mutant of mutants) {
    const verdict = await judge.judge(mutant);
    verdicts.push(verdict);
    const { state, detail, seconds } = verdict;
    console.log(`${state.padEnd(8)} ${mutant.name}, ${seconds.toFixed(0)} s: ${detail}`);
  }
  return verdicts;
}

function chooseMutants(
  options: Partial<Record<'only' | 'handful' | 'seed', string>>,
): readonly Mutant[] {
  if (options.only !== undefined) return options.only.split(',').map(mutantNamed);
  if (options.handful === undefined) return MUTANTS;
  const count = parseWholeNumber('handful', options.handful, {
    min: 1,
    max: MUTANTS.length,
    byDefault: 1,
  });
  const today = Math.floor(Date.now() / DAY_MS);
  const seed = parseWholeNumber('seed', options.seed, { min: 0, max: MAX_SEED, byDefault: today });
  const chosen = chooseHandful(MUTANTS, count, seed);
  console.log(`Seed ${seed}: ${chosen.map(({ name }) => name).join(', ')}`);
  return chosen;
}

function mutantNamed(name: string): Mutant {
  const mutant = MUTANTS.find((each) => each.name === name);
  if (!mutant) throw new CommandError(`There is no mutant "${name}": see ${CALL} --list`, 2);
  return mutant;
}

async function writeReport(file: string, verdicts: readonly Verdict[]): Promise<void> {
  const page = renderPage(`${CALL} --report ${file}`, TABLES, verdicts);
  await writeFile(file, await format(page, { ...(await resolveConfig(file)), parser: 'markdown' }));
}
