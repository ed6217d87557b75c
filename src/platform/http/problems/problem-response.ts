/**
 * Writes a problem as an application/problem+json response (RFC 9457). All problems are written
 * here, so that all have the same members and headers.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Problem, problems, type ProblemType } from './problem.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Present when the response is a problem. For logs. */
    problem?: Problem;
  }
}

export const PROBLEM_JSON = 'application/problem+json; charset=utf-8';

/** The path of a URI (RFC 3986, section 3.3). */
const URI_PATH = /^(?:[\w.~!$&'()*+,;=:@/-]|%[0-9a-f]{2})*$/i;

/** @param instance path of the request. Not repeated when it is not a URI: clients may parse it. */
export function problemBody(
  { problemType, details }: Problem,
  requestId: string,
  instance: string,
): Record<string, unknown> {
  return {
    type: `/problems/${problemType.code}`,
    title: problemType.title,
    status: problemType.status,
    detail: details.detail ?? problemType.explanation,
    instance: URI_PATH.test(instance) ? instance : '',
    code: problemType.code,
    requestId,
    ...details.extensions,
  };
}

export function sendProblem(problem: Problem, request: FastifyRequest, reply: FastifyReply): void {
  const { problemType, details } = problem;
  request.problem = problem;
  const [path = ''] = request.raw.url?.split('?') ?? [];
  void reply.code(problemType.status).headers({ 'Cache-Control': 'no-store', ...details.headers });
  if (problemType.status === 401) {
    void reply.header('WWW-Authenticate', challengeOf(problemType, request));
  }
  void reply
    .header('Content-Type', PROBLEM_JSON)
    .send(JSON.stringify(problemBody(problem, request.id, path)));
}

/**
 * RFC 6750, section 3.1: `invalid_token` when a token was sent but has no live session; no error
 * code when the request had no token.
 */
function challengeOf({ code }: ProblemType, { headers }: FastifyRequest): string {
  const hasToken = headers.authorization !== undefined;
  const isInvalidToken = code === problems.unauthenticated.code && hasToken;
  return isInvalidToken
    ? 'Bearer realm="holdfast", error="invalid_token"'
    : 'Bearer realm="holdfast"';
}
