/** The columns that several entities share, declared once, as the migrations make them. */
import type { ColumnOptions, ValueTransformer } from 'typeorm';

/** A bigint column whose values stay within ±(2^53 - 1), which a CHECK or the column's use guarantees: a number here. */
export const safeInteger: ValueTransformer = {
  to: (value: number | undefined) => value,
  from: (value: string | null) => (value === null ? null : Number(value)),
};

/** A time with milliseconds, as the API shows it. */
export const timestamp = (
  name: string,
  options: Pick<ColumnOptions, 'nullable' | 'default'> = {},
): ColumnOptions => ({
  type: 'timestamptz',
  name,
  precision: 3,
  ...options,
});

/** The same, set by the database when the row is made. */
export const timestampOfInsert = (name: string): ColumnOptions =>
  timestamp(name, { default: () => `date_trunc('milliseconds', statement_timestamp())` });
