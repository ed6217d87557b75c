/** Answers that differ from the OpenAPI document, and requests that nobody counts. */
import type { Mutant } from '../mutant.js';

const fuzz = { specs: ['test/verify/api-fuzz/api-fuzz.spec.ts'], isSlow: true } as const;
const preflights = {
  file: 'src/platform/http/server/cors.ts',
  specs: ['test/platform/http/rate-limit/refused-requests.spec.ts'],
  tests: 'of a listed origin',
} as const;

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
  {
    ...preflights,
    name: 'preflights-not-counted',
    without: 'preflights are answered before the hooks that count requests',
    text: 'preflightContinue: true,',
    replacement: 'preflightContinue: false,',
  },
  {
    ...preflights,
    name: 'refused-options-without-a-problem',
    without: 'OPTIONS of a listed origin past the limit ends in a server error',
    text: 'sendProblem(toProblem(error), request, reply);',
    replacement: 'void [error, request, toProblem, sendProblem, reply.code(500).send()];',
  },
  {
    name: 'stalled-readers-delay-the-stop',
    without: 'a client that does not read an export delays the stop of the node',
    file: 'src/platform/http/bounds/overload-protection.service.ts',
    text: '    this.stalledReaders.drain();',
    replacement: '',
    specs: ['test/orders/export.spec.ts'],
    tests: 'is cut when the node stops',
  },
];
