/** What every refusal must be (RFC 9457, docs of the API), asserted in one place. */
import { expect } from '@jest/globals';
import type { Reply } from './app.js';

/** Text that only the inside of the service speaks: stacks, SQL, parsers, libraries. */
const INSIDE =
  /\bat \S+ \(|node_modules|\.ts:\d|\.js:\d|\b(SELECT|INSERT|UPDATE|DELETE) |QueryFailed|constraint|Unexpected token|in JSON at|FST_|HPE_|class-validator|undefined/;

/** Each type that was seen, so that a test can follow them all. */
export const seenTypes = new Set<string>();

/** The reply is this problem and nothing else: form, headers, and no word of the inside. */
export function expectProblem(reply: Reply, status: number, code: string): void {
  expect([reply.status, (reply.body as { code?: string }).code ?? reply.text]).toEqual([
    status,
    code,
  ]);
  expect(reply.headers.get('content-type')).toBe('application/problem+json; charset=utf-8');
  expect(reply.headers.get('cache-control')).toBe('no-store');
  const {
    type,
    title,
    status: told,
    detail,
    instance,
    requestId,
  } = reply.body as Record<string, unknown>;
  expect({ type, told, requestId }).toEqual({
    type: `/problems/${code}`,
    told: status,
    requestId: reply.headers.get('x-request-id'),
  });
  for (const text of [title, detail, requestId]) expect(text).toEqual(expect.stringMatching(/./));
  expect(typeof instance).toBe('string');
  expect(reply.text).not.toMatch(INSIDE);
  if (status === 401) expect(reply.headers.get('www-authenticate')).toMatch(/^Bearer\b/);
  if ([429, 503].includes(status)) expect(reply.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
  seenTypes.add(String(type));
}

/** The faults of a validation-failed, as `pointer code`. */
export function faultsOf(reply: Reply): string[] {
  expectProblem(reply, 400, 'validation-failed');
  return (reply.body.errors as { pointer: string; code: string; detail: string }[]).map(
    ({ pointer, code, detail }) => {
      expect(detail).toEqual(expect.stringMatching(/./));
      return `${pointer} ${code}`;
    },
  );
}

/** The pointers of a validation-failed, each once. */
export const pointersOf = (reply: Reply): string[] => [
  ...new Set(faultsOf(reply).map((fault) => fault.split(' ')[0] as string)),
];

/** A body without what is this request's own: two refusals that tell the same are equal in this. */
export const anonymous = ({ body }: Reply): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(body as object).filter(([name]) => name !== 'instance' && name !== 'requestId'),
  );
