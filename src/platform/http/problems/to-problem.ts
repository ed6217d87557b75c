/**
 * Maps every error to one problem. Invariant: an error that is not known to be the client's is an
 * internal error, whose text never leaves the service.
 */
import { isNativeError } from 'node:util/types';
import { HttpException } from '@nestjs/common';
import {
  UnconfirmedWriteError,
  WriteRejectedError,
} from '../../cache/write/invalidation.errors.js';
import { TransactionTooLongError } from '../../database/unit-of-work.js';
import { problemOfDatabase } from './database-problems.js';
import { Problem, type ProblemFactory, problems, RETRY_LATER } from './problem.js';

/** Errors of Fastify, by code (Fastify manual, Errors). */
const FASTIFY_ERRORS: Readonly<Record<string, ProblemFactory>> = {
  FST_ERR_BAD_URL: problems.malformedUrl,
  FST_ERR_MAX_PARAM_LENGTH: problems.uriTooLong,
  FST_ERR_CTP_BODY_TOO_LARGE: problems.payloadTooLarge,
  FST_ERR_CTP_INVALID_MEDIA_TYPE: problems.unsupportedMediaType,
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: problems.malformedRequest,
};

/** Other errors of Fastify, Nest and plugins, by status. Any 4xx is the client's error. */
const FRAMEWORK_STATUSES: Readonly<Record<number, ProblemFactory>> = {
  // @fastify/static: a path that leads out of its folder. To the client, nothing is there.
  403: problems.notFound,
  404: problems.notFound,
  408: problems.requestTimeout,
  413: problems.payloadTooLarge,
  414: problems.uriTooLong,
  415: problems.unsupportedMediaType,
  431: problems.headersTooLarge,
};

/** The problem that an error is. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const known = isError(error) ? findProblem(error) : undefined;
  const factory = known ?? problems.internal;
  const retry = factory.status === 503 ? RETRY_LATER : {};
  return factory(undefined, { ...retry, cause: error });
}

/**
 * Fastify makes errors without Error's constructor. Node's may come from another realm, e.g. a
 * worker.
 */
export const isError = (value: unknown): value is Error =>
  value instanceof Error || isNativeError(value);

function findProblem(error: Error): ProblemFactory | undefined {
  const ofFramework = problemOfFramework(error);
  if (ofFramework) return ofFramework;
  if (error instanceof HttpException) return undefined;
  if (error instanceof WriteRejectedError) return problems.cacheUnavailable;
  if (error instanceof UnconfirmedWriteError) return problems.databaseUnavailable;
  if (error instanceof TransactionTooLongError) return problems.overloaded;
  return problemOfDatabase(error);
}

function problemOfFramework(error: Error): ProblemFactory | undefined {
  if (error instanceof HttpException) {
    // Nest wraps Fastify's errors: the original is the cause.
    return FASTIFY_ERRORS[codeOf(error.cause ?? error)] ?? problemOfStatus(error.getStatus());
  }
  const { statusCode = 500 } = error as { statusCode?: number };
  return FASTIFY_ERRORS[codeOf(error)] ?? problemOfStatus(statusCode);
}

function problemOfStatus(status: number): ProblemFactory | undefined {
  const isClientError = status >= 400 && status < 500;
  return FRAMEWORK_STATUSES[status] ?? (isClientError ? problems.malformedRequest : undefined);
}

const codeOf = (error: unknown): string => String((error as { code?: unknown }).code ?? '');
