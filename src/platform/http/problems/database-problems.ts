/**
 * Which problem a database error is: by constraint, by SQLSTATE (PostgreSQL manual, Appendix A), or
 * because the connection failed. Anything else is an internal error. No text of PostgreSQL reaches
 * the client.
 */
import { QueryFailedError } from 'typeorm';
import { databaseErrorOf } from '../../database/sql-state.js';
import { type ProblemFactory, problems } from './problem.js';

/** By code, or by class (the first two characters) for codes that are not listed. */
const SQLSTATES: Readonly<Record<string, ProblemFactory>> = {
  // connection_exception; admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped,
  // idle_session_timeout; invalid_catalog_name.
  '08': problems.databaseUnavailable,
  '57P01': problems.databaseUnavailable,
  '57P02': problems.databaseUnavailable,
  '57P03': problems.databaseUnavailable,
  '57P04': problems.databaseUnavailable,
  '57P05': problems.databaseUnavailable,
  '3D000': problems.databaseUnavailable,
  // insufficient_resources (connections, memory, disk); a timeout of data-source.ts; a deadlock or
  // serialization failure that retries did not resolve.
  '53': problems.overloaded,
  '57014': problems.overloaded,
  '55P03': problems.overloaded,
  '25P03': problems.overloaded,
  '25P04': problems.overloaded,
  '40001': problems.overloaded,
  '40P01': problems.overloaded,
  // data_exception, not_null_violation, check_violation: validation should have rejected the value.
  '22': problems.valueRefused,
  '23502': problems.valueRefused,
  '23514': problems.valueRefused,
  // foreign_key_violation, unique_violation: a concurrent request was first.
  '23503': problems.conflict,
  '23505': problems.conflict,
};

/** Node's codes for a server that cannot be reached. */
const CONNECTION_FAILED = /^(ECONNREFUSED|ECONNRESET|EPIPE|ENOTFOUND|ETIMEDOUT|EAI_AGAIN)$/;
/** Messages of pg and its pool, which have no code: the connection failed, or none became free. */
const CLIENT_FAILED = new RegExp(
  [
    'Connection terminated',
    'Client has encountered a connection error',
    'Query read timeout',
    'not queryable',
    'client was closed',
    'not connected',
    'timeout exceeded when trying to connect',
    'timeout expired',
  ].join('|'),
  'i',
);

const problemByConstraint = new Map<string, ProblemFactory>();

/**
 * Declares the problem that a violated constraint is. Validation finds most violations first; the
 * constraint finds those of concurrent requests.
 */
export function mapConstraint(name: string, problem: ProblemFactory): void {
  problemByConstraint.set(name, problem);
}

export const problemOfConstraint = (name: string | undefined): ProblemFactory | undefined =>
  problemByConstraint.get(name ?? '');

/** @returns undefined for an error that is a defect of the service */
export function problemOfDatabase(error: Error): ProblemFactory | undefined {
  const { code = '', constraint } = databaseErrorOf(error) ?? {};
  const ofConstraint = problemOfConstraint(constraint);
  if (ofConstraint) return ofConstraint;
  if (hasConnectionFailed(error)) return problems.databaseUnavailable;
  return SQLSTATES[code] ?? SQLSTATES[code.slice(0, 2)];
}

function hasConnectionFailed(error: Error): boolean {
  const cause: Error = error instanceof QueryFailedError ? error.driverError : error;
  const hasCode = codesOf(cause).some((code) => CONNECTION_FAILED.test(code));
  return hasCode || CLIENT_FAILED.test(cause.message);
}

/** An error of node:net that tried several addresses has the codes in `errors`. */
function codesOf(error: Error & { code?: unknown; errors?: unknown[] }): string[] {
  const candidates = [error, ...(error.errors ?? [])] as { code?: unknown }[];
  return candidates.map(({ code }) => (typeof code === 'string' ? code : ''));
}
