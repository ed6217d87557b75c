/** The problems of orders. */
import { defineProblem } from '../platform/http/problems/problem.js';

export const orderProblems = {
  invalidTransition: defineProblem({
    code: 'invalid-transition',
    status: 409,
    title: "The order's status does not allow this",
    explanation:
      'This caller cannot do this to an order with this status. "allowed" lists the actions ' +
      'that the caller can take now.',
    example: { allowed: ['pay', 'cancel'] },
  }),
} as const;
