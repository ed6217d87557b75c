/** The problems of orders. */
import { defineProblem } from '../platform/http/problems/problem.js';
import { MAX_CHANGED_VERSION, MAX_ORDER_VERSIONS } from './order-versions.js';

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
  tooManyVersions: defineProblem({
    code: 'too-many-versions',
    status: 409,
    title: 'The order has too many versions',
    explanation:
      `An order has at most ${MAX_ORDER_VERSIONS} versions. Its items and note cannot be changed ` +
      `after version ${MAX_CHANGED_VERSION}: the versions that are left are for actions, which ` +
      'stay possible.',
  }),
} as const;
