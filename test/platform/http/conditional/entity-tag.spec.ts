/** Entity tags: parsing, and the comparisons of If-Match and If-None-Match. */
import { describe, expect, it } from '@jest/globals';
import {
  entityTagOf,
  isEntityTagList,
  matchesStrongly,
  matchesWeakly,
  parseEntityTags,
} from '../../../../src/platform/http/conditional/entity-tag.js';
import { IfMatch } from '../../../../src/platform/http/conditional/if-match.decorator.js';

describe('parseEntityTags', () => {
  it.each<[string, string, readonly string[] | '*']>([
    ['one tag', '"1"', ['"1"']],
    ['a list', '"1", "2"', ['"1"', '"2"']],
    ['a list without spaces', '"1","2"', ['"1"', '"2"']],
    ['a weak tag', 'W/"1"', ['W/"1"']],
    ['an empty tag', '""', ['""']],
    ['a comma inside a tag', '"1,2"', ['"1,2"']],
    ['any', ' * ', '*'],
    ['a tag without quotes', '1', []],
    ['a lower-case weak prefix, which is not part of a tag', 'w/"1"', ['"1"']],
    ['nothing', '', []],
  ])('reads %s: %s', (_, header, tags) => {
    expect(parseEntityTags(header)).toEqual(tags);
  });
});

describe('isEntityTagList', () => {
  const LISTS = [
    '"1"',
    'W/"1"',
    '"1", W/"2"',
    '"1","2"',
    '""',
    '"1,2"',
    '*',
    ' * ',
    ', "1" ,, "2",',
  ];
  it.each(LISTS)('accepts %s', (header) => {
    expect(isEntityTagList(header)).toBe(true);
  });

  const OTHERS = ['1', '"1', '1"', '', ',', 'w/"1"', '"1" "2"', '"1""2"', '"1", 2', '*, "1"', '**'];
  it.each(OTHERS)('rejects %s', (header) => {
    expect(isEntityTagList(header)).toBe(false);
  });
});

describe('the comparisons with "2"', () => {
  // RFC 9110, section 8.8.3.2.
  it.each<[string, boolean, boolean]>([
    ['"2"', true, true],
    ['"1", "2"', true, true],
    ['W/"2"', false, true],
    ['"1"', false, false],
    ['"22"', false, false],
    ['2', false, false],
    ['*', true, true],
  ])('%s matches strongly: %s, weakly: %s', (header, isStrong, isWeak) => {
    const tags = parseEntityTags(header);
    expect(matchesStrongly(tags, entityTagOf(2))).toBe(isStrong);
    expect(matchesWeakly(tags, entityTagOf(2))).toBe(isWeak);
  });
});

describe('IfMatch', () => {
  const ifMatch = (header?: string): IfMatch =>
    new IfMatch(header === undefined ? undefined : parseEntityTags(header));

  it.each(['"2"', '"1", "2"', '*'])('with %s accepts version 2', (header) => {
    expect(() => ifMatch(header).check(2)).not.toThrow();
    expect(() => ifMatch(header).require(2)).not.toThrow();
  });

  it.each(['"1"', 'W/"2"', '2', ''])(
    'with %s rejects version 2 and returns its entity tag',
    (header) => {
      const mismatch = {
        problemType: expect.objectContaining({ code: 'version-mismatch' }),
        details: expect.objectContaining({ headers: { ETag: '"2"' } }),
      };
      expect(() => ifMatch(header).check(2)).toThrow(expect.objectContaining(mismatch));
      expect(() => ifMatch(header).require(2)).toThrow(expect.objectContaining(mismatch));
    },
  );

  it('without the header accepts any version, unless it is required', () => {
    const required = { problemType: expect.objectContaining({ code: 'precondition-required' }) };
    expect(() => ifMatch().check(2)).not.toThrow();
    expect(() => ifMatch().require(2)).toThrow(expect.objectContaining(required));
  });
});
