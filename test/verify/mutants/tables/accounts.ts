/** Accounts: logins, changes of a password, the admin of the configuration, erasure. */
import { lines, type Mutant } from '../mutant.js';

const THROTTLE_SPEC = 'test/auth/throttling/login-throttle.spec.ts';
const auth = { file: 'src/auth/auth.service.ts', specs: [THROTTLE_SPEC], isSlow: true };
const bootstrap = {
  file: 'src/auth/admin-bootstrap.service.ts',
  specs: ['test/auth/admin-bootstrap.spec.ts'],
};
const users = { file: 'src/users/users.service.ts', specs: bootstrap.specs };
const erasure = { file: 'src/users/users.service.ts', specs: ['test/auth/erasure.spec.ts'] };

export const ACCOUNT_MUTANTS: readonly Mutant[] = [
  {
    ...auth,
    name: 'device-of-another-user-counts',
    without: 'the token of one user is a known device of every user',
    text: 'if (device && device.userId === userId) {',
    replacement: 'if (device) {',
  },
  {
    ...auth,
    name: 'attempts-counted-by-address',
    without: 'a client with an IPv6 /64 guesses from each of its addresses',
    text: 'return attemptByName(loginName, networkOf(ip));',
    replacement: 'return attemptByName(loginName, ip);',
    tests: 'failed logins at one node',
  },
  {
    ...auth,
    name: 'attempts-counted-by-spelling',
    without: 'each spelling of a login name has counters of its own',
    text: "const name = loginName.normalize('NFKC').toLowerCase();",
    replacement: 'const name = loginName;',
  },
  {
    ...auth,
    name: 'attempt-counted-after-the-password',
    without: 'parallel attempts pass the limit',
    text: 'await this.throttle.recordAttempt(attempt, user?.id);',
    replacement: 'void this.throttle.recordAttempt(attempt, user?.id).catch(() => undefined);',
    tests: 'failed logins at one node',
  },
  {
    ...auth,
    name: 'success-counts-as-a-failure',
    without: 'correct passwords count as failed logins',
    text: lines('    await this.throttle.recordSuccess(attempt);', '    const currentHash = await'),
    replacement: '    const currentHash = await',
    tests: 'failed logins at one node',
  },
  {
    ...auth,
    name: 'current-password-guessed-without-a-limit',
    without: 'a stolen session guesses the password of its user',
    text: lines(
      '      await this.throttle.recordAttempt(attempt);',
      '      return this.findHash(userId);',
    ),
    replacement: '      return this.findHash(userId);',
    tests: 'failed logins at two nodes',
  },
  {
    ...auth,
    name: 'registration-guessed-without-a-limit',
    without: 'repetitions of a registration guess its password without a limit',
    text: '      await this.throttle.recordAttempt(attempt, account);\n',
    replacement: '',
    specs: ['test/auth/registration-retries.spec.ts'],
  },
  {
    ...auth,
    name: 'login-with-a-replaced-password',
    without: 'a login whose password was changed meanwhile starts a session',
    text: lines(
      '      if (credential?.passwordHash !== verifiedHash) {',
      '        throw authProblems.invalidCredentials(undefined, { account: userId });',
      '      }',
    ),
    replacement: '      void [credential, verifiedHash];',
    specs: ['test/auth/accounts.spec.ts', 'test/auth/passwords/passwords.spec.ts'],
  },
  {
    ...auth,
    name: 'password-replaced-twice',
    without: 'the older of two changes of a password replaces the newer one',
    text: 'if (credential?.passwordHash !== verifiedHash) throw authProblems.wrongPassword();',
    replacement: 'void [credential, verifiedHash];',
    specs: ['test/auth/accounts.spec.ts', 'test/auth/passwords/passwords.spec.ts'],
  },
  {
    ...auth,
    name: 'password-of-another-user',
    without: 'an admin changes the password of another user',
    text: 'if (user.id !== actor.userId) {',
    replacement: 'if (user.id !== userId) {',
    specs: ['test/auth/accounts.spec.ts', 'test/auth/passwords/passwords.spec.ts'],
  },
  {
    ...auth,
    name: 'outdated-hash-over-a-new-password',
    without: 'a login that renews its hash undoes a change of the password',
    text: '      { userId, passwordHash },\n      { passwordHash: newHash },',
    replacement: '      { userId },\n      { passwordHash: newHash },',
    specs: ['test/auth/passwords/passwords.spec.ts'],
  },
  {
    ...bootstrap,
    name: 'registered-user-becomes-admin',
    without: 'whoever registers the name of ADMIN_USERNAME becomes an admin',
    text: "    if (!namesake.roles.includes('admin')) return 'taken';\n",
    replacement: "    await this.users.grantRole(transaction, namesake.id, 'admin');\n",
    tests: 'the admin of the configuration',
  },
  {
    ...bootstrap,
    name: 'admin-found-by-name',
    without: 'the admin of the configuration is found by its name, not by its id',
    text: '    if (remembered) {\n',
    replacement: '    if (remembered && !remembered.userId) {\n',
    tests: 'the admin of the configuration',
  },
  {
    ...users,
    name: 'reserved-name-registered',
    without: 'somebody registers as admin or support',
    file: 'src/auth/auth.service.ts',
    text: '        this.users.requireUnreserved(username);\n',
    replacement: '',
    tests: 'a reserved username',
  },
  {
    ...users,
    name: 'reserved-name-taken-later',
    without: 'a user is renamed to admin or support',
    text: 'if (isNewName) this.requireUnreserved(username);',
    replacement: 'void isNewName;',
    tests: 'a reserved username',
  },
  {
    ...users,
    name: 'name-of-the-admin-not-reserved',
    without: 'somebody takes the name of ADMIN_USERNAME',
    text: ' || username === this.config.admin?.username;',
    replacement: ';',
    tests: 'a reserved username',
  },
  {
    ...erasure,
    name: 'erasure-keeps-the-email',
    without: 'the email address of a deleted user stays',
    text: '      email: null,\n',
    replacement: '',
  },
  {
    ...erasure,
    name: 'erasure-keeps-the-credential',
    without: 'the password hash of a deleted user stays',
    file: 'src/auth/auth.service.ts',
    text: '      await transaction.manager.delete(Credential, { userId });\n',
    replacement: '',
  },
];
