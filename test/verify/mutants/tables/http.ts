/** Answers that differ from the OpenAPI document. */
import type { Mutant } from '../mutant.js';

const fuzz = { specs: ['test/verify/api-fuzz/api-fuzz.spec.ts'], isSlow: true } as const;

export const HTTP_MUTANTS: readonly Mutant[] = [
  {
    ...fuzz,
    name: 'order-without-its-total',
    without: 'orders are answered without a documented field',
    file: 'src/orders/orders.dto.ts',
    text: '  total: order.total,\n',
    replacement: '',
  },
  {
    ...fuzz,
    name: 'cursor-that-is-no-list',
    without: 'a cursor that is JSON but not a list ends in a server error',
    file: 'src/platform/http/pagination.ts',
    text: 'if (!Array.isArray(parsed)) return undefined;',
    replacement: '',
  },
  {
    ...fuzz,
    name: 'method-not-allowed-without-allow',
    without: '405 does not name the methods of the path',
    file: 'src/platform/http/server/negotiation.ts',
    text: ', { headers: { Allow: allow } }',
    replacement: '',
  },
];
