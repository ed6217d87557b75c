/**
 * The pages of docs/security: every file and every test that they name exists, and the numbers in
 * the text are the numbers of the rows.
 */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { REPOSITORY } from './support/repository.js';

const read = (path: string): string => readFileSync(new URL(path, REPOSITORY), 'utf8');
const exists = (path: string): boolean => existsSync(new URL(path, REPOSITORY));

/** requirement | status | how it is met, or why not | the files and tests that prove it */
interface Row {
  readonly id: string;
  readonly status: string;
  readonly explanation: string;
  readonly evidence: string;
}

const ASVS_ID = /^V\d{1,2}\.\d{1,2}\.\d{1,2}$/;
const ROW = /^\| (\S[^|]*?) +\| (met|not met|n\/a) +\| ([^|]*?) +\| ([^|]*?) *\|$/gm;
/** Any line of a table that begins with a requirement, well-formed or not. */
const REQUIREMENT_LINE = /^\| (V\d|\d\.\d)/gm;
/** `file` or `file`: "name of a test" */
const EVIDENCE = /`([^`]+)`(?:: "([^"]+)")?/g;

const page = read('docs/security/asvs.md');
const asvs = rowsUnder('OWASP ASVS 5.0.0');
const nist = rowsUnder('NIST SP 800-63B-4');
const rows = [...asvs, ...nist];

function rowsUnder(heading: string): Row[] {
  const [, rest = ''] = page.split(`## ${heading}\n`);
  const [section = ''] = rest.split('\n## ');
  return [...section.matchAll(ROW)].map(
    ([, id = '', status = '', explanation = '', evidence = '']) => ({
      id,
      status,
      explanation,
      evidence,
    }),
  );
}

/** What is wrong with the evidence of a row; empty when all of it exists. */
function evidenceErrors({ id, evidence }: Pick<Row, 'id' | 'evidence'>): string[] {
  const references = [...evidence.matchAll(EVIDENCE)];
  if (references.length === 0) return [`${id} names no evidence`];
  return references.flatMap(([, file = '', testName]) => {
    if (!exists(file)) return [`${id}: ${file} does not exist`];
    if (testName === undefined) {
      return file.endsWith('.spec.ts') ? [`${id} names no test of ${file}`] : [];
    }
    return read(file).includes(testName) ? [] : [`${id}: ${file} has no test "${testName}"`];
  });
}

describe('docs/security/asvs.md', () => {
  it('has more than 150 requirements of ASVS', () => expect(asvs.length).toBeGreaterThan(150));

  it('has only well-formed ids of ASVS', () =>
    expect(asvs.filter(({ id }) => !ASVS_ID.test(id))).toEqual([]));

  it('has each requirement of ASVS once', () => {
    const ids = asvs.map(({ id }) => id);
    expect(ids.filter((id, index) => ids.indexOf(id) !== index)).toEqual([]);
  });

  it('explains every row', () =>
    expect(rows.filter(({ explanation }) => explanation.length < 5)).toEqual([]));

  it('has no row that these tests cannot read', () =>
    expect(rows.length).toBe((page.match(REQUIREMENT_LINE) ?? []).length));

  it('names existing files and tests for every requirement that is met', () => {
    const met = rows.filter(({ status }) => status === 'met');
    expect(met.flatMap(evidenceErrors)).toEqual([]);
  });

  it('states how many requirements are met', () => {
    const [asvsMet, asvsApplicable] = countsOf(asvs);
    const [nistMet, nistApplicable] = countsOf(nist);
    expect(page).toContain(
      `${asvsMet} of ${asvsApplicable} applicable requirements of ASVS are met, ` +
        `${nistMet} of ${nistApplicable} of NIST`,
    );
  });
});

function countsOf(list: readonly Row[]): [met: number, applicable: number] {
  const met = list.filter(({ status }) => status === 'met').length;
  const applicable = list.filter(({ status }) => status !== 'n/a').length;
  return [met, applicable];
}

describe('docs/security/threat-model.md', () => {
  const text = read('docs/security/threat-model.md');
  const threats = [...text.matchAll(/^\| ([STRIDE]) +\|.*\| `([^`]+)` *\|$/gm)].map(
    ([, category = '', file = '']) => ({ category, file }),
  );

  it('has a threat of every category of STRIDE', () =>
    expect(new Set(threats.map(({ category }) => category))).toEqual(new Set('STRIDE')));

  it('has no threat without a test', () =>
    expect(threats.length).toBe((text.match(/^\| [STRIDE] +\|/gm) ?? []).length));

  it('names only tests that exist', () =>
    expect(threats.filter(({ file }) => !exists(file))).toEqual([]));
});

describe('docs/security/reproductions.md', () => {
  const text = read('docs/security/reproductions.md');
  const lines = text.split('\n').filter((line) => /^\| (?!what was done|-)/.test(line));
  const reproductions = lines.map((line) => {
    const [id = '', , , evidence = ''] = line.replace(/^\| /, '').split(' | ');
    return { id, evidence };
  });

  it('has more than 20 reproductions', () => expect(reproductions.length).toBeGreaterThan(20));

  it('names existing files and tests for each', () =>
    expect(reproductions.flatMap(evidenceErrors)).toEqual([]));
});
