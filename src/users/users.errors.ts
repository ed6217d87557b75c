/** The problems of users. */
import { mapConstraint } from '../platform/http/problems/database-problems.js';
import { defineProblem } from '../platform/http/problems/problem.js';

export const userProblems = {
  usernameTaken: defineProblem({
    code: 'username-taken',
    status: 409,
    title: 'The username is taken',
    explanation:
      'Another user has this username. Usernames are compared without case. Choose another one.',
  }),
  emailTaken: defineProblem({
    code: 'email-taken',
    status: 409,
    title: 'The email address is taken',
    explanation: 'Another user has this email address. Email addresses are compared without case.',
  }),
} as const;

mapConstraint('users_username_key', userProblems.usernameTaken);
mapConstraint('users_email_key', userProblems.emailTaken);
