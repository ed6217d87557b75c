/**
 * `npm run verify -- protocol-model`: explores the models of the cache protocol and prints what
 * became of each claim. Exit code 1 when a claim is false.
 */
import { writeFile } from 'node:fs/promises';
import { parseArguments } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import { type Claim, CLAIMS, type Finding } from './claims.js';

const CALL = 'npm run verify -- protocol-model';

export const USAGE = `${CALL} [--form short|long] [--traces] [--report <file>]
--form short explores what the tests explore, in about half a minute. --form long, the default,
explores every claim: some minutes and 2 GB of memory. --traces prints the shortest way to each
violation. --report writes the table as Markdown.`;

const HEADING = [
  '| model | claim | result | states | steps of the trace |',
  '| - | - | - | -: | -: |',
];

export async function run(argv: string[]): Promise<number> {
  const { options, flags } = parseArguments(argv, {
    usage: USAGE,
    options: ['form', 'report'],
    flags: ['traces'],
  });
  const { form = 'long', report } = options;
  if (form !== 'short' && form !== 'long') {
    throw new CommandError(`--form is short or long, not "${form}"`, 2);
  }
  const claims = CLAIMS.filter(({ isLong }) => form === 'long' || !isLong);
  const rows: string[] = [];
  let isEveryClaimTrue = true;
  for (const claim of claims) {
    const finding = claim.explore();
    const isTrue = finding.outcome === claim.expected;
    isEveryClaimTrue &&= isTrue;
    rows.push(rowOf(claim, finding));
    console.log(rows.at(-1));
    if (!isTrue) console.error(`FALSE: expected ${claim.expected}, found ${finding.outcome}`);
    if (!isTrue || flags.has('traces')) for (const line of finding.trace) console.log(line);
  }
  if (report !== undefined) await writeFile(report, `${[...HEADING, ...rows].join('\n')}\n`);
  return isEveryClaimTrue ? 0 : 1;
}

function rowOf({ model, name }: Claim, { outcome, states, trace }: Finding): string {
  const result = outcome === 'holds' ? 'holds' : `breaks ${outcome}`;
  // The last line of a trace is the broken promise.
  const steps = trace.length === 0 ? '' : String(trace.length - 1);
  return `| ${model} | ${name} | ${result} | ${states} | ${steps} |`;
}
