/** What can be wrong with an order. */
import { defineProblem } from '../http/problem.js';

export const orderProblems = {
  invalidTransition: defineProblem({
    code: 'invalid-transition',
    status: 409,
    title: 'The order is not in a state for that',
    explanation:
      'The order\'s state does not allow this for this caller; "allowed" names the actions that it does allow.',
    example: { allowed: ['pay', 'cancel'] },
  }),
} as const;
