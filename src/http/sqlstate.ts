/**
 * What PostgreSQL's refusals are to a caller: one table from SQLSTATE to problem (PostgreSQL manual, appendix A), read by
 * problem.filter.ts. A state that is not here is a fault of the service's own: a 500, as 42601 or the append-only table's 23001.
 * No word of PostgreSQL's leaves.
 */
import { type ProblemFactory, problems } from './problem.js';

/** By code, or by class (its first two characters) for those that have no row of their own. */
const SQLSTATES: Readonly<Record<string, ProblemFactory>> = {
  // Connection exceptions; the server shuts down, has crashed, is starting, or has dropped the database or the session.
  '08': problems.databaseUnavailable,
  '57P01': problems.databaseUnavailable,
  '57P02': problems.databaseUnavailable,
  '57P03': problems.databaseUnavailable,
  '57P04': problems.databaseUnavailable,
  '57P05': problems.databaseUnavailable,
  '3D000': problems.databaseUnavailable,
  // Out of connections, memory or disk; a bound of data-source.ts was reached; a deadlock or conflict that retries did not end.
  '53': problems.overloaded,
  '57014': problems.overloaded,
  '55P03': problems.overloaded,
  '25P03': problems.overloaded,
  '25P04': problems.overloaded,
  '40001': problems.overloaded,
  '40P01': problems.overloaded,
  // Data exceptions, not_null_violation, check_violation: a value that a rule in front of the database should have refused.
  '22': problems.valueRefused,
  '23502': problems.valueRefused,
  '23514': problems.valueRefused,
  // foreign_key_violation, unique_violation: what it refers to has gone, or another was first.
  '23503': problems.conflict,
  '23505': problems.conflict,
};

export const problemOfSqlState = (code: string): ProblemFactory | undefined =>
  SQLSTATES[code] ?? (/^[0-9A-Z]{5}$/.test(code) ? SQLSTATES[code.slice(0, 2)] : undefined);
