/** Which new passwords are too common. Lengths and characters: accounts.spec.ts. */
import { describe, expect, it } from '@jest/globals';
import { requireUncommonPassword } from '../../../src/auth/passwords/password-rules.js';
import type { Problem } from '../../../src/platform/http/problems/problem.js';

const USERNAME = 'lighthouse.keeper.k3';
const EMAIL = `${USERNAME}@windy-shore.example`;

/** The code of the rule that rejects the password; undefined when it is accepted. */
function rejectionOf(password: string): string | undefined {
  try {
    requireUncommonPassword(password, [USERNAME, EMAIL], 'newPassword');
    return undefined;
  } catch (error) {
    const { errors } = (error as Problem).details.extensions as {
      errors: { pointer: string; code: string }[];
    };
    expect(errors.map(({ pointer }) => pointer)).toEqual(['/newPassword']);
    return errors[0]?.code;
  }
}

describe('a new password', () => {
  it.each([
    'passwordpassword',
    'PASSWORDPASSWORD',
    '123456789012345',
    'qwertyuiopasdfgh',
    'password1234567',
    'iloveyouiloveyou',
    '111111111111111',
    'abcdefghijklmnop',
    '1qaz2wsx3edc4rfv',
    'qwerty123456789',
    'P@ssw0rdP@ssw0rd',
  ])('is rejected when it is a common one: %s', (password) => {
    expect(rejectionOf(password)).toBe('common');
  });

  it.each([
    'pàsswördpàsswörd',
    'ｐａｓｓｗｏｒｄ１２３４５６７８',
    'парольпарольпароль',
    'абвгдежзийклмно',
    '🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙',
    'i l o v e y o u i l o v e y o u',
    '123-456-789-012-345',
  ])('is rejected when it is a common one in another script or with separators: %s', (password) => {
    expect(rejectionOf(password)).toBe('common');
  });

  it.each(['Holdfast-Holdfast-1', 'holdfast password!'])(
    'is rejected when it is made of words that are obvious for this service: %s',
    (password) => {
      expect(rejectionOf(password)).toBe('common');
    },
  );

  it.each([
    USERNAME,
    USERNAME.toUpperCase(),
    EMAIL,
    EMAIL.toUpperCase(),
    `${USERNAME}2026!`,
    `x-${EMAIL}-1`,
    'lighthouse keeper',
    'LightHouse_Keeper_99',
    'lïghthöuse.këeper',
    'keeperkeeperkeeper',
    'windy-shore-lighthouse',
  ])('is rejected when it is made of the username or the email address: %s', (password) => {
    expect(rejectionOf(password)).toBe('own-name');
  });

  it.each([
    'the lighthouse keeper counts waves',
    'nine tall ships at anchor',
    'пароль из слов на кириллице',
    '灯台守は波を数えて朝を待ちながら歌う',
    '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎🐍',
    '   spaces   count   ',
  ])('is accepted when it has enough words that nobody guesses: %s', (password) => {
    expect(rejectionOf(password)).toBeUndefined();
  });
});
