/**
 * The one place that finds PostgreSQL's own error behind what TypeORM and pg throw. SQLSTATE codes:
 * PostgreSQL manual, Appendix A.
 */
import { DatabaseError } from 'pg';
import { QueryFailedError } from 'typeorm';

/**
 * The error that PostgreSQL answered with.
 * @returns undefined for any other error, a broken connection or a timeout among them
 */
export function databaseErrorOf(error: unknown): DatabaseError | undefined {
  const cause: unknown = error instanceof QueryFailedError ? error.driverError : error;
  return cause instanceof DatabaseError ? cause : undefined;
}

/** The five characters of SQLSTATE, e.g. `23505`; undefined when PostgreSQL did not answer. */
export const sqlStateOf = (error: unknown): string | undefined => databaseErrorOf(error)?.code;
