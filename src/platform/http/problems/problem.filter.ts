/**
 * Every refusal and every fault becomes one application/problem+json answer here (RFC 9457), and only here. Whatever is not
 * known to be the caller's doing is a 500 with a request id and a log line; no stack, SQL or parser text leaves.
 */
import { isNativeError } from 'node:util/types';
import {
  type ArgumentsHost,
  Catch,
  type ExceptionFilter,
  HttpException,
  Logger,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { QueryFailedError } from 'typeorm';
import { WriteRejectedError } from '../cache/invalidation.service.js';
import { TransactionTooLongError } from '../database/unit-of-work.js';
import {
  Problem,
  type ProblemFactory,
  problemOfConstraint,
  type ProblemType,
  problems,
  retryLater,
} from './problem.js';
import { problemOfSqlState } from './sqlstate.js';

/** Fastify's own refusals, by code (Fastify manual, Errors). */
const FASTIFY_ERRORS: Readonly<Record<string, ProblemFactory>> = {
  FST_ERR_BAD_URL: problems.malformedUrl,
  FST_ERR_MAX_PARAM_LENGTH: problems.uriTooLong,
  FST_ERR_CTP_BODY_TOO_LARGE: problems.payloadTooLarge,
  FST_ERR_CTP_INVALID_MEDIA_TYPE: problems.unsupportedMediaType,
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: problems.malformedRequest,
};

/** Other refusals of Fastify's and Nest's own, by status: whatever they find wrong with a request is the caller's. */
const FRAMEWORK_STATUSES: Readonly<Record<number, ProblemFactory>> = {
  400: problems.malformedRequest,
  404: problems.notFound,
  408: problems.requestTimeout,
  413: problems.payloadTooLarge,
  414: problems.uriTooLong,
  415: problems.unsupportedMediaType,
  431: problems.headersTooLarge,
};

/** What Node says when PostgreSQL cannot be reached. What PostgreSQL itself says: sqlstate.ts. */
const DATABASE_GONE = /^(ECONNREFUSED|ECONNRESET|EPIPE|ENOTFOUND|ETIMEDOUT|EAI_AGAIN)$/;
/** The same from the driver and its pool, which give no code. */
const DRIVER_GONE =
  /Connection terminated|Client has encountered a connection error|Query read timeout|not queryable|client was closed|not connected/i;
const POOL_BUSY = /timeout exceeded when trying to connect|timeout expired/i;

/** Fastify's errors are made without Error's constructor, and Node's may come from another realm (a worker, a test's). */
const isError = (value: unknown): value is Error => value instanceof Error || isNativeError(value);

const codeOf = (error: unknown): string => {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : '';
};

/** A node:net error that tried several addresses hides its codes one level down. */
const allCodes = (error: unknown): string[] =>
  [error, ...((error as { errors?: unknown[] }).errors ?? [])].map(codeOf);

function problemOfDatabase(error: Error): Problem | undefined {
  const driver = error instanceof QueryFailedError ? error.driverError : error;
  const codes = allCodes(driver);
  const constraint = problemOfConstraint((driver as { constraint?: string }).constraint);
  if (constraint) return constraint(undefined, { cause: error });
  if (
    codes.some((code) => DATABASE_GONE.test(code)) ||
    DRIVER_GONE.test(driver.message) ||
    POOL_BUSY.test(driver.message)
  ) {
    return problems.databaseUnavailable(undefined, { ...retryLater, cause: error });
  }
  const [told] = codes.flatMap((code) => problemOfSqlState(code) ?? []);
  return told?.(undefined, { ...(told.status === 503 ? retryLater : {}), cause: error });
}

/** The problem that an error is. Exported for the places before and beside Nest (bad URLs, bad sockets). */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (!isError(error)) return problems.internal(undefined, { cause: error });
  // Nest wraps Fastify's refusals into its own exceptions, with the original as the cause. The modules throw problems.
  const original = error instanceof HttpException && isError(error.cause) ? error.cause : error;
  const status =
    error instanceof HttpException
      ? error.getStatus()
      : (error as { statusCode?: unknown }).statusCode;
  const ofFramework = FASTIFY_ERRORS[codeOf(original)] ?? FRAMEWORK_STATUSES[status as number];
  if (ofFramework) return ofFramework(undefined, { cause: error });
  if (error instanceof HttpException) return problems.internal(undefined, { cause: error });
  if (error instanceof WriteRejectedError)
    return problems.cacheUnavailable(undefined, { ...retryLater, cause: error });
  if (error instanceof TransactionTooLongError)
    return problems.overloaded(undefined, { ...retryLater, cause: error });
  return problemOfDatabase(error) ?? problems.internal(undefined, { cause: error });
}

export const PROBLEM_JSON = 'application/problem+json; charset=utf-8';

export function problemBody(
  { type, details }: Problem,
  requestId: string,
  instance: string,
): Record<string, unknown> {
  return {
    type: `/problems/${type.code}`,
    title: type.title,
    status: type.status,
    ...(details.detail === undefined ? {} : { detail: details.detail }),
    instance,
    code: type.code,
    requestId,
    ...details.extensions,
  };
}

/** RFC 6750, section 3: a token that was sent and is no live session's is told so; a request without one gets the bare challenge. */
const challengeOf = ({ code }: ProblemType, { headers }: FastifyRequest): string =>
  `Bearer realm="holdfast"${code === problems.unauthenticated.code && headers.authorization !== undefined ? ', error="invalid_token"' : ''}`;

declare module 'fastify' {
  interface FastifyRequest {
    /** Set when the answer is a problem. */
    refusal?: Problem;
  }
}

/** Writes the answer. `detail` is always there: the explanation stands in when the occurrence has none of its own. */
export function sendProblem(problem: Problem, request: FastifyRequest, reply: FastifyReply): void {
  const { type, details } = problem;
  request.refusal = problem;
  const told =
    details.detail === undefined
      ? new Problem(type, { ...details, detail: type.explanation })
      : problem;
  const [path = ''] = request.raw.url?.split('?') ?? [];
  void reply.code(type.status).headers({ 'Cache-Control': 'no-store', ...details.headers });
  if (type.status === 401) void reply.header('WWW-Authenticate', challengeOf(type, request));
  void reply
    .header('Content-Type', PROBLEM_JSON)
    .send(JSON.stringify(problemBody(told, request.id, path)));
}

@Catch()
export class ProblemFilter implements ExceptionFilter {
  private readonly logger = new Logger('Http');

  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const reply = http.getResponse<FastifyReply>();
    const problem = problemOf(error);
    const { cause: behind } = problem.details;
    // Below 500, but a rule in front of the database is missing: somebody has to know.
    const ruleMissing = problem.type.code === problems.valueRefused.code;
    if (problem.type.status >= 500 || ruleMissing) {
      const cause = behind ?? error;
      const reason = isError(cause) ? (cause.stack ?? cause.message) : String(cause);
      if (problem.type.status === 500 || ruleMissing)
        this.logger.error(
          `${request.id} ${request.method} ${request.url.split('?')[0]}: ${reason}`,
        );
      else
        this.logger.warn(
          `${request.id} ${problem.type.code}: ${isError(cause) ? cause.message : String(cause)}`,
        );
    }
    if (reply.sent) return;
    sendProblem(problem, request, reply);
  }
}
