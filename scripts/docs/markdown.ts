/** Markdown tables for generated pages. */

type Row = readonly string[];

const line = (cells: Row): string => `| ${cells.join(' | ')} |`;

/** A table as Prettier formats it: every column as wide as its widest cell. */
export function alignedTable(head: Row, rows: readonly Row[]): string {
  const widths = head.map((_, column) =>
    Math.max(3, ...[head, ...rows].map((row) => row[column]?.length ?? 0)),
  );
  const pad = (row: Row): Row => row.map((cell, column) => cell.padEnd(widths[column] ?? 0));
  const rule = widths.map((width) => '-'.repeat(width));
  return [pad(head), rule, ...rows.map(pad)].map(line).join('\n');
}

/** A table for pages that Prettier ignores. */
export const plainTable = (head: Row, rows: readonly Row[]): string =>
  [head, head.map(() => '---'), ...rows].map(line).join('\n');
