/**
 * Statements that the service really sends, and what PostgreSQL does to run them: rows, pages and
 * indexes instead of time.
 */
import { expect } from '@jest/globals';
import type { Client } from 'pg';
import type { Logger } from 'typeorm';

export interface Statement {
  readonly sql: string;
  readonly parameters: readonly unknown[];
}

/** Records the statements of a data source: assign it to `dataSource.logger`. */
export class StatementRecorder implements Logger {
  private readonly statements: Statement[] = [];

  logQuery(sql: string, parameters?: unknown): void {
    this.statements.push({ sql, parameters: (parameters as unknown[] | undefined) ?? [] });
  }

  /** The statements that match `pattern` and were sent during `action`. */
  async during(pattern: RegExp, action: () => Promise<unknown>): Promise<Statement[]> {
    this.statements.length = 0;
    await action();
    return this.statements.filter(({ sql }) => pattern.test(sql));
  }

  /** The first of the statements that match `pattern` and were sent during `action`. */
  async firstDuring(pattern: RegExp, action: () => Promise<unknown>): Promise<Statement> {
    const [statement] = await this.during(pattern, action);
    if (statement) return statement;
    throw new Error(`Expected a statement that matches ${pattern}`);
  }

  /** The only statement that matches `pattern` and was sent during `action`. */
  async oneDuring(pattern: RegExp, action: () => Promise<unknown>): Promise<Statement> {
    const [statement, ...others] = await this.during(pattern, action);
    if (statement && others.length === 0) return statement;
    const all = this.statements.map(({ sql }) => sql).join('\n');
    throw new Error(`Expected one statement that matches ${pattern} among:\n${all}`);
  }

  logQueryError(): void {}
  logQuerySlow(): void {}
  logSchemaBuild(): void {}
  logMigration(): void {}
  log(): void {}
}

/** The parts of EXPLAIN's answer that count. */
interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Index Name'?: string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Rows Removed by Filter'?: number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly Plans?: readonly PlanNode[];
}

export interface Cost {
  /** The types of the plan's nodes, from the root downwards. */
  readonly nodes: readonly string[];
  /** Without repetition, sorted. */
  readonly indexes: readonly string[];
  /** Rows that were read from tables, also those that a filter removed. */
  readonly readRows: number;
  /** The most rows that one sort received. */
  readonly sortedRows: number;
  /** Pages of 8 KiB, also those in memory. */
  readonly pages: number;
}

/** Runs the statement with EXPLAIN, and takes back what it changed. */
export async function explain(client: Client, { sql, parameters }: Statement): Promise<Cost> {
  await client.query('BEGIN');
  try {
    const { rows } = await client.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
      `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${sql}`,
      [...parameters],
    );
    return costOf(rows[0]!['QUERY PLAN'][0].Plan);
  } finally {
    await client.query('ROLLBACK');
  }
}

function costOf(root: PlanNode): Cost {
  const nodes = withChildren(root);
  const scans = nodes.filter(
    ({ 'Node Type': type }) => /Scan/.test(type) && !/Bitmap Index/.test(type),
  );
  const sorts = nodes.filter(({ 'Node Type': type }) => /Sort/.test(type));
  const sortInputs = sorts.flatMap(({ Plans = [] }) => Plans).map((input) => input['Actual Rows']);
  return {
    nodes: nodes.map((node) => node['Node Type']),
    indexes: [...new Set(nodes.flatMap((node) => node['Index Name'] ?? []))].sort(),
    readRows: scans.reduce((sum, scan) => sum + rowsOf(scan), 0),
    sortedRows: Math.max(0, ...sortInputs),
    pages: root['Shared Hit Blocks'] + root['Shared Read Blocks'],
  };
}

function withChildren(node: PlanNode): PlanNode[] {
  return [node, ...(node.Plans ?? []).flatMap(withChildren)];
}

function rowsOf(scan: PlanNode): number {
  return (scan['Actual Rows'] + (scan['Rows Removed by Filter'] ?? 0)) * scan['Actual Loops'];
}

/** Expects that the plan reads no whole table and sorts nothing. */
export function expectNoScanOrSort({ nodes }: Cost): void {
  expect(nodes.filter((node) => /Seq Scan|Sort/.test(node))).toEqual([]);
}
