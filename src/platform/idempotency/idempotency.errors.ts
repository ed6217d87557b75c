/** The problems of requests with an Idempotency-Key. */
import { defineProblem, RETRY_AFTER } from '../http/problems/problem.js';

export const idempotencyProblems = {
  required: defineProblem({
    code: 'idempotency-key-required',
    status: 400,
    title: 'Idempotency-Key is required',
    explanation:
      'Send an "Idempotency-Key" of 1 to 255 printable ASCII characters. Use a new key for ' +
      'each order, and the same key for each retry of it.',
  }),
  malformed: defineProblem({
    code: 'idempotency-key-malformed',
    status: 400,
    title: 'Idempotency-Key is malformed',
    explanation:
      'An "Idempotency-Key" has 1 to 255 printable ASCII characters, bare or as a quoted ' +
      'structured-field string (RFC 9651, section 3.3.3). Send the header once.',
  }),
  reused: defineProblem({
    code: 'idempotency-key-reused',
    status: 422,
    title: 'The key belongs to another request',
    explanation:
      'The key was sent with another method, path, body or If-Match in the last 24 hours. Use ' +
      'a new key for a new request.',
  }),
  inFlight: defineProblem({
    code: 'idempotency-key-in-flight',
    status: 409,
    title: 'The first request with this key is still running',
    headers: RETRY_AFTER,
    explanation: 'Repeat the request after "Retry-After" seconds to get its response.',
  }),
} as const;
