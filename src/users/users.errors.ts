/** What can be wrong with a user. */
import { defineProblem, mapConstraint } from '../http/problem.js';

export const userProblems = {
  usernameTaken: defineProblem({
    code: 'username-taken',
    status: 409,
    title: 'The username is taken',
    explanation:
      'Another user has this username; upper and lower case are the same. Choose another.',
  }),
  emailTaken: defineProblem({
    code: 'email-taken',
    status: 409,
    title: 'The email address is taken',
    explanation: 'Another user has this email address; upper and lower case are the same.',
  }),
} as const;

mapConstraint('users_username_key', userProblems.usernameTaken);
mapConstraint('users_email_key', userProblems.emailTaken);
