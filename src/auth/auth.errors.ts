/** What can be wrong with a login or a password. */
import { defineProblem } from '../http/problem.js';

export const authProblems = {
  invalidCredentials: defineProblem({
    code: 'invalid-credentials',
    status: 401,
    title: 'Wrong name or password',
    explanation:
      'The pair of name and password is not right. Which of the two is wrong is not told.',
  }),
  wrongPassword: defineProblem({
    code: 'wrong-password',
    status: 403,
    title: 'The current password is wrong',
    explanation:
      'A password is changed only by who knows the one it replaces: "currentPassword" was not it.',
  }),
  tooManyAttempts: defineProblem({
    code: 'too-many-attempts',
    status: 429,
    title: 'Too many wrong passwords',
    explanation:
      'This login was not tried: too many wrong passwords came before it. "Retry-After" says in how many seconds the next one is; each further series waits longer. Sessions that are open stay so.',
  }),
} as const;
