/** Assertions about problems (RFC 9457): the form that every error response must have. */
import { expect } from '@jest/globals';
import { problemCatalogue } from '../../src/platform/http/problems/problem.js';
import type { Reply } from './http-client.js';
import { INTERNAL_TEXT } from './internal-text.js';

/** Expects this problem: its form, its header fields, and no internal text. */
export function expectProblem(reply: Reply, status: number, code: string): void {
  const body = reply.body as Record<string, unknown>;
  expect([reply.status, body.code ?? reply.text]).toEqual([status, code]);
  expect(reply.headers.get('content-type')).toBe('application/problem+json; charset=utf-8');
  expect(reply.headers.get('cache-control')).toBe('no-store');
  expect({ type: body.type, status: body.status, requestId: body.requestId }).toEqual({
    type: `/problems/${code}`,
    status,
    requestId: reply.headers.get('x-request-id'),
  });
  const nonEmpty: unknown = expect.stringMatching(/./);
  expect([body.title, body.detail, body.requestId]).toEqual([nonEmpty, nonEmpty, nonEmpty]);
  expect(typeof body.instance).toBe('string');
  expect(reply.text).not.toMatch(INTERNAL_TEXT);
  if (status === 401) expect(reply.headers.get('www-authenticate')).toMatch(/^Bearer\b/);
  const { headers: declared = [] } = problemCatalogue.get(code) ?? {};
  const hasRetryAfter = declared.includes('Retry-After');
  const retryAfter = hasRetryAfter ? expect.stringMatching(/^[1-9]\d*$/) : null;
  expect(reply.headers.get('retry-after')).toEqual(retryAfter);
}

interface ValidationError {
  readonly pointer: string;
  readonly code: string;
  readonly detail: string;
}

/** The errors of a `validation-failed` problem, each as `<pointer> <code>`. */
export function validationErrorsOf(reply: Reply): string[] {
  expectProblem(reply, 400, 'validation-failed');
  const errors = reply.body.errors as ValidationError[];
  expect(errors.filter(({ detail }) => !detail)).toEqual([]);
  return errors.map(({ pointer, code }) => `${pointer} ${code}`);
}

/** The pointers of a `validation-failed` problem, each once. */
export function pointersOf(reply: Reply): string[] {
  const pointers = validationErrorsOf(reply).map((error) => error.split(' ')[0] as string);
  return [...new Set(pointers)];
}

/**
 * The body without `instance` and `requestId`. Two problems are indistinguishable to a client when
 * these are equal.
 */
export function withoutRequestFields({ body }: Reply): Record<string, unknown> {
  const fields = Object.entries(body as Record<string, unknown>);
  return Object.fromEntries(fields.filter(([name]) => name !== 'instance' && name !== 'requestId'));
}
