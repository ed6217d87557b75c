/** The table of mutants fits the source, also after a refactoring. The run itself takes longer. */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { parseSync } from '@swc/core';
import { chooseHandful, type Mutant, mutate, MutantTextError } from './mutant.js';
import { MUTANTS } from './mutants.js';

const SYNTAX = { syntax: 'typescript', decorators: true, target: 'es2022' } as const;

describe('each mutant', () => {
  it.each(MUTANTS)('$name has a text that occurs once, and still parses', (mutant) => {
    const source = readFileSync(mutant.file, 'utf8');
    const mutated = mutate(source, mutant);
    expect(mutated).not.toBe(source);
    expect(() => parseSync(mutated, SYNTAX)).not.toThrow();
  });

  it.each(MUTANTS)('$name names specs that exist', ({ specs }) => {
    expect(specs.length).toBeGreaterThan(0);
    expect(specs.filter((spec) => !existsSync(spec))).toEqual([]);
  });

  it('has a name of its own', () => {
    const names = MUTANTS.map(({ name }) => name);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });
});

describe('a mutant whose text', () => {
  const mutant = { name: 'm', file: 'f.ts', text: 'a', replacement: 'b' } as Mutant;

  it('occurs once is applied', () => {
    expect(mutate('xax', mutant)).toBe('xbx');
  });

  it.each([
    ['is gone', 'xx', 'not at all'],
    ['occurs twice', 'xaxa', '2 times'],
  ])('%s is reported with its file', (_, source, found) => {
    const attempt = (): string => mutate(source, mutant);
    expect(attempt).toThrow(MutantTextError);
    expect(attempt).toThrow(`once in f.ts, but occurs ${found}`);
  });
});

describe('a handful of mutants', () => {
  const quick = ['a', 'b', 'c', 'd', 'e'].map((name) => ({ name }) as Mutant);
  const all = [...quick, { name: 'slow', isSlow: true } as Mutant];
  const namesOf = (seed: number): string[] => chooseHandful(all, 3, seed).map(({ name }) => name);

  it('is the same for the same seed', () => {
    expect(namesOf(7)).toEqual(namesOf(7));
  });

  it('has only quick mutants, and all of them within some seeds', () => {
    const chosen = Array.from({ length: 5 }, (_, seed) => namesOf(seed)).flat();
    expect(new Set(chosen)).toEqual(new Set(['a', 'b', 'c', 'd', 'e']));
  });
});
