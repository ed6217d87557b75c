/** The page of results, docs/benchmarks/mutants.md. */
import { markdownTable } from '../../bench/page.js';
import type { Verdict } from './judge.js';
import type { MutantTable } from './mutant.js';

/** @param command as the reader can repeat it */
export function renderPage(
  command: string,
  tables: readonly MutantTable[],
  verdicts: readonly Verdict[],
): string {
  const killed = verdicts.filter(({ state }) => state === 'killed');
  const date = new Date().toISOString().slice(0, 10);
  const sections = tables.flatMap(({ area, mutants }) => {
    const rows = verdicts.filter(({ mutant }) => mutants.includes(mutant)).map(rowOf);
    return rows.length > 0 ? [`## ${area}`, markdownTable(HEAD, rows)] : [];
  });
  return [
    '# Mutants: what the tests notice',
    `\`${command}\`, ${date}: **${killed.length} killed of ${verdicts.length}**.`,
    INTRODUCTION,
    ...sections,
    '',
  ].join('\n\n');
}

const INTRODUCTION = `
Each mutant is the service with one part of a protocol taken away. It is applied to a scratch copy
of the working tree. The specs that are meant to notice it must pass on the service as it is, and
fail on the mutant. The last column names the first test that failed. The tables are in
test/verify/mutants/tables.`.trim();

const HEAD = ['mutant', 'the service in which', 'result', 'seconds', 'failed test'];

function rowOf({ mutant, state, detail, seconds }: Verdict): string[] {
  return [`\`${mutant.name}\``, mutant.without, state, seconds.toFixed(0), textOf(detail)];
}

/** As the text of a table's cell. */
const textOf = (detail: string): string =>
  (detail.split('\n')[0] ?? '').replaceAll('|', '\\|').replaceAll('<', '&lt;');
