/** Column options that several entities share, as the migrations create these columns. */
import type { ColumnOptions, ValueTransformer } from 'typeorm';

/**
 * Reads a bigint column as a number. Only for columns whose values stay within ±(2^53 - 1), by a
 * CHECK or by what is written to them.
 */
export const safeInteger: ValueTransformer = {
  to: (value: number | undefined) => value,
  from: (value: string | null) => (value === null ? null : Number(value)),
};

/** A `timestamptz(3)`: milliseconds, as in the API. */
export const timestamp = (
  name: string,
  options: Pick<ColumnOptions, 'nullable' | 'default'> = {},
): ColumnOptions => ({
  type: 'timestamptz',
  name,
  precision: 3,
  ...options,
});

/** A {@link timestamp} that PostgreSQL sets to the time of the INSERT statement. */
export const timestampOfInsert = (name: string): ColumnOptions =>
  timestamp(name, { default: () => `date_trunc('milliseconds', statement_timestamp())` });
