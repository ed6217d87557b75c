/**
 * Rows as text and back. A payload is a JSON array of the entity's columns in their declared order.
 * `decode` checks every value against its column, so an unknown or damaged payload is a cache miss,
 * never a wrong row and never an error.
 */
import type { EntityMetadata } from 'typeorm';
import type { ColumnMetadata } from 'typeorm/metadata/ColumnMetadata.js';

type Json = string | number | boolean | null | object;

const isTimestamp = (column: ColumnMetadata): boolean =>
  column.type === 'timestamptz' || column.type === 'timestamp with time zone';

/** Whether {@link RowCodec.encode} could have written this value for this column. */
function isValueOf(column: ColumnMetadata, value: unknown): boolean {
  if (value === null) return column.isNullable;
  if (column.isArray) return Array.isArray(value);
  if (isTimestamp(column)) return typeof value === 'string' && !Number.isNaN(Date.parse(value));
  switch (column.type) {
    case 'jsonb':
      return typeof value === 'object';
    case 'bigint':
    case 'integer':
    case 'smallint':
      return Number.isSafeInteger(value);
    case 'boolean':
      return typeof value === 'boolean';
    default:
      return typeof value === 'string';
  }
}

export class RowCodec<E extends object> {
  constructor(private readonly metadata: EntityMetadata) {}

  encode(row: E): string {
    const values = this.metadata.columns.map((column) => {
      const value = column.getEntityValue(row) as Json | undefined;
      return value ?? null;
    });
    return JSON.stringify(values);
  }

  /** @returns a frozen row; undefined when the text is not a payload of this entity */
  decode(payload: string): E | undefined {
    let values: unknown;
    try {
      values = JSON.parse(payload);
    } catch {
      return undefined;
    }
    const { columns } = this.metadata;
    if (!Array.isArray(values) || values.length !== columns.length) return undefined;
    const row = this.metadata.create() as E;
    for (const [index, column] of columns.entries()) {
      const value: unknown = values[index];
      if (!isValueOf(column, value)) return undefined;
      const isDate = isTimestamp(column) && value !== null;
      column.setEntityValue(row, isDate ? new Date(value as string) : value);
    }
    return Object.freeze(row);
  }
}
