/** Which new passwords are too common. Lengths and characters: accounts.spec.ts. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { estimateTaskOf } from '../../../src/auth/passwords/password-rules.js';
import { PasswordsService } from '../../../src/auth/passwords/passwords.service.js';
import type { Problem } from '../../../src/platform/http/problems/problem.js';
import { QUICK_HASHING_SETTINGS } from '../../support/app.js';
import { Random } from '../../support/random.js';

const USERNAME = 'lighthouse.keeper.k3';
const EMAIL = `${USERNAME}@windy-shore.example`;

interface Rejection {
  readonly pointer: string;
  readonly code: string;
  readonly detail: string;
}

let passwords: PasswordsService;

beforeAll(() => {
  passwords = new PasswordsService(QUICK_HASHING_SETTINGS);
});
afterAll(() => passwords.onApplicationShutdown());

/** How the password is rejected; undefined when it is accepted. */
async function rejectedAs(
  password: string,
  names = [USERNAME, EMAIL],
): Promise<Rejection | undefined> {
  try {
    const turn = { lane: 'new-password', caller: 'test' } as const;
    await passwords.hashNew(turn, { password, names, field: 'newPassword' });
    return undefined;
  } catch (error) {
    const { errors } = (error as Problem).details.extensions as { errors: Rejection[] };
    expect(errors.map(({ pointer }) => pointer)).toEqual(['/newPassword']);
    return errors[0];
  }
}

/** The code of the rule that rejects the password; undefined when it is accepted. */
const rejectionOf = async (password: string): Promise<string | undefined> =>
  (await rejectedAs(password))?.code;

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
  ])('is rejected when it is a common one: %s', async (password) => {
    expect(await rejectionOf(password)).toBe('common');
  });

  it.each([
    'pàsswördpàsswörd',
    'ｐａｓｓｗｏｒｄ１２３４５６７８',
    'парольпарольпароль',
    'абвгдежзийклмно',
    '🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙',
    'i l o v e y o u i l o v e y o u',
    '123-456-789-012-345',
  ])(
    'is rejected when it is a common one in another script or with separators: %s',
    async (password) => {
      expect(await rejectionOf(password)).toBe('common');
    },
  );

  it.each(['Holdfast-Holdfast-1', 'holdfast password!'])(
    'is rejected when it is made of words that are obvious for this service: %s',
    async (password) => {
      expect(await rejectionOf(password)).toBe('common');
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
  ])('is rejected when it is made of the username or the email address: %s', async (password) => {
    expect(await rejectionOf(password)).toBe('own-name');
  });

  it.each([
    'the lighthouse keeper counts waves',
    'nine tall ships at anchor',
    'пароль из слов на кириллице',
    '灯台守は波を数えて朝を待ちながら歌う',
    '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎🐍',
    '   spaces   count   ',
  ])('is accepted when it has enough words that nobody guesses: %s', async (password) => {
    expect(await rejectionOf(password)).toBeUndefined();
  });

  it.each([
    '^}~q[;%&)7>]*p{=3W@x',
    '}~[;%&)p>]*a{=s@s',
    '{^|~;ada[;%&)7>]*p{=',
    '~"password"^};<?{[',
  ])(
    'is accepted when symbols make it strong, whatever its few letters are: %s',
    async (password) => {
      expect(await rejectedAs(password, ['ada', 'ada@example.com'])).toBeUndefined();
    },
  );

  it('is accepted when it is random: 300 of 15 to 24 printable characters', async () => {
    const random = new Random(20_261_121);
    const passwords = Array.from({ length: 300 }, () =>
      String.fromCharCode(
        ...Array.from({ length: random.between(15, 24) }, () => random.between(33, 126)),
      ),
    );
    const rejections: string[] = [];
    for (const password of passwords) {
      const rejection = await rejectedAs(password);
      if (rejection) rejections.push(`${password}: ${rejection.detail}`);
    }
    expect(rejections).toEqual([]);
  });

  it.each([
    ['qwertyuiopasdfgh', 'it is a common password'],
    [`';lkjhgfdsa/.,m`, 'it is a row of keys on a keyboard'],
    ['111111111111111', 'it is a repetition'],
    ['abcdefghijklmnop', 'it is a sequence of characters'],
    ['dragonfly1999monkey', 'it is a common word, a year, and a common password'],
    ['sunshine 123456789', 'it is little more than a common password'],
    [
      '123-456-789-012-345',
      'without spaces and symbols it is a common password and a sequence of characters',
    ],
    ['holdfast password!', 'it is made of words that are obvious here'],
  ])('is rejected with what is wrong with it: %s', async (password, reason) => {
    const rejection = await rejectedAs(password);
    expect(rejection?.detail).toBe(`newPassword is easy to guess: ${reason}`);
  });

  it('is estimated by a bounded beginning, whatever its length and its names', () => {
    const password = 'ﷺ'.repeat(128);
    const names = [USERNAME, `${'ab.'.repeat(80)}@example.com`];
    const { texts, words } = estimateTaskOf({ password, names, field: 'newPassword' });
    expect(Math.max(...texts.map((text) => [...text].length))).toBe(48);
    expect(words.length).toBeLessThan(30);
  });

  it('is rejected with the name that it is made of', async () => {
    const rejection = await rejectedAs('lighthouse keeper');
    expect(rejection?.detail).toBe(
      'newPassword must not be made of the username or the email address',
    );
  });
});
