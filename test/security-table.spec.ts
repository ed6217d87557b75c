/** docs/security.md and docs/threat-model.md: every file and every test that they name is there, and their figures are counted. */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const root = new URL('../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');

interface Row {
  readonly id: string;
  readonly status: string;
  readonly here: string;
  readonly held: string;
}
const security = read('docs/security.md');
const rowsOf = (heading: string): Row[] => {
  const [, section = ''] = security.split(`## ${heading}\n`);
  return [
    ...(section.split('\n## ')[0] ?? '').matchAll(
      /^\| (\S[^|]*?) +\| (met|not met|n\/a) +\| ([^|]*?) +\| ([^|]*?) *\|$/gm,
    ),
  ].map(([, id = '', status = '', here = '', held = '']) => ({ id, status, here, held }));
};
const asvs = rowsOf('OWASP ASVS 5.0.0');
const nist = rowsOf('NIST SP 800-63B-4');
const count = (rows: readonly Row[]): [met: number, applicable: number] => [
  rows.filter(({ status }) => status === 'met').length,
  rows.filter(({ status }) => status !== 'n/a').length,
];

describe('docs/security.md', () => {
  it('has each requirement once, with a reason where it is not met or does not apply', () => {
    expect(asvs.length).toBeGreaterThan(150);
    expect(asvs.filter(({ id }) => !/^V\d{1,2}\.\d{1,2}\.\d{1,2}$/.test(id))).toEqual([]);
    const ids = asvs.map(({ id }) => id);
    expect(ids.filter((id, index) => ids.indexOf(id) !== index)).toEqual([]);
    expect([...asvs, ...nist].filter(({ here }) => here.length < 5)).toEqual([]);
    // As many rows as the tables have lines: none is passed over for its form.
    const lines = security.match(/^\| (V\d|\d\.\d)/gm) ?? [];
    expect(asvs.length + nist.length).toBe(lines.length);
  });

  it('says of each that is met what holds it: a file that is there, a test of that name in it', () => {
    const faults: string[] = [];
    for (const { id, held } of [...asvs, ...nist].filter(({ status }) => status === 'met')) {
      const named = [...held.matchAll(/`([^`]+)`(?:: "([^"]+)")?/g)];
      if (named.length === 0) faults.push(`${id} names nothing`);
      for (const [, file = '', name] of named) {
        if (!existsSync(new URL(file, root))) faults.push(`${id}: ${file} is not there`);
        else if (/\.spec\.ts$/.test(file) && !name)
          faults.push(`${id}: no test of ${file} is named`);
        else if (name && !read(file).includes(name)) faults.push(`${id}: ${file} has no "${name}"`);
      }
    }
    expect(faults).toEqual([]);
  });

  it('counts right', () => {
    const [[met, of], [metOfNist, ofNist]] = [count(asvs), count(nist)];
    process.stdout.write(`    ASVS: ${met} of ${of} met; NIST: ${metOfNist} of ${ofNist}\n`);
    expect(security).toContain(
      `${met} of ${of} applicable requirements of ASVS are met, ${metOfNist} of ${ofNist} of NIST`,
    );
  });
});

it('docs/threat-model.md names a test for each threat, and it is there', () => {
  const text = read('docs/threat-model.md');
  const threats = [...text.matchAll(/^\| ([STRIDE]) +\|.*\| `([^`]+)` *\|$/gm)];
  expect(new Set(threats.map(([, letter]) => letter))).toEqual(new Set('STRIDE'));
  expect(threats.filter(([, , file = '']) => !existsSync(new URL(file, root)))).toEqual([]);
  expect(threats.length).toBe((text.match(/^\| [STRIDE] +\|/gm) ?? []).length);
});
