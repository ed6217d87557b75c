/** The problems of logins and password changes. */
import { defineProblem, RETRY_AFTER } from '../platform/http/problems/problem.js';

export const authProblems = {
  invalidCredentials: defineProblem({
    code: 'invalid-credentials',
    status: 401,
    title: 'Wrong name or password',
    headers: ['WWW-Authenticate'],
    explanation:
      'The login name and the password do not match. The response does not reveal which is wrong.',
  }),
  wrongPassword: defineProblem({
    code: 'wrong-password',
    status: 403,
    title: 'The current password is wrong',
    explanation: 'currentPassword is incorrect. The password was not changed.',
  }),
  tooManyAttempts: defineProblem({
    code: 'too-many-attempts',
    status: 429,
    title: 'Too many wrong passwords',
    headers: RETRY_AFTER,
    explanation:
      'The password was not checked, because too many wrong ones were sent before. Try again ' +
      'after "Retry-After" seconds. The wait grows with further failures. Open sessions stay ' +
      'open.',
  }),
} as const;
