/**
 * Pages that are bounded by rows and by bytes, whatever size the rows have. PostgreSQL walks an
 * index row by row and stops at the bound. Rows behind it are not read: to find their size, it
 * would have to decompress them.
 */

export interface BoundedPage {
  readonly table: string;
  /** Columns of a unique index, after the columns that `where` compares. */
  readonly key: readonly string[];
  readonly direction: 'ASC' | 'DESC';
  /** SQL expressions: the key after which the page begins. */
  readonly after: readonly string[];
  /** An SQL condition on the rows of the list. */
  readonly where: string;
  /** An SQL expression: the size of a row. */
  readonly rowBytes: string;
  readonly maxRows: number;
  /** The page ends with the row that reaches it, so it has at least one row. */
  readonly maxBytes: number;
}

/**
 * The query of a common table expression `page`, for WITH RECURSIVE: the columns of the table,
 * `page_rows` and `page_bytes` (up to and including the row).
 */
export function boundedPage(options: BoundedPage): string {
  const { table, key, direction, after, where, rowBytes, maxRows, maxBytes } = options;
  const operator = direction === 'ASC' ? '>' : '<';
  const columns = key.join(', ');
  const order = key.map((column) => `${column} ${direction}`).join(', ');
  const previous = key.map((column) => `page.${column}`).join(', ');
  return `
    (SELECT ${table}.*, 1 AS page_rows, ${rowBytes} AS page_bytes
       FROM ${table}
      WHERE ${where} AND (${columns}) ${operator} (${after.join(', ')})
      ORDER BY ${order} LIMIT 1)
    UNION ALL
    SELECT next.*
      FROM page,
           LATERAL (SELECT ${table}.*, page.page_rows + 1, page.page_bytes + ${rowBytes}
                      FROM ${table}
                     WHERE ${where} AND (${columns}) ${operator} (${previous})
                     ORDER BY ${order} LIMIT 1) AS next
     WHERE page.page_rows < ${maxRows} AND page.page_bytes < ${maxBytes}`;
}
