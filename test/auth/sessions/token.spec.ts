/** The form of session tokens, which is checked without a look-up. */
import { describe, expect, it } from '@jest/globals';
import { createToken, hasTokenForm } from '../../../src/auth/sessions/token.js';

const token = createToken();

/** Another character of the alphabet in the place of one. */
function withOther(text: string, index: number): string {
  const other = text[index] === 'A' ? 'B' : 'A';
  return text.slice(0, index) + other + text.slice(index + 1);
}

describe('the form of a token', () => {
  it('new tokens have it, and all are different', () => {
    const tokens = Array.from({ length: 100 }, createToken);
    expect(tokens.filter((created) => !hasTokenForm(created))).toEqual([]);
    expect(new Set(tokens).size).toBe(100);
  });

  it.each(Array.from({ length: 49 }, (_, index) => index + 3))(
    'a token has lost it when its character %i was changed',
    (index) => {
      expect(hasTokenForm(withOther(token, index))).toBe(false);
    },
  );

  it.each([
    ['nothing', ''],
    ['the prefix alone', 'hf_'],
    ['another prefix', `xx_${token.slice(3)}`],
    ['one character less', token.slice(0, -1)],
    ['one character more', `${token}A`],
    ['characters of another alphabet', token.replace(/.$/, '=')],
  ])('%s does not have it', (_, text) => {
    expect(hasTokenForm(text)).toBe(false);
  });

  it('tokens of earlier releases, without a checksum, still have it', () => {
    expect(hasTokenForm(token.slice(0, 46))).toBe(true);
  });
});
