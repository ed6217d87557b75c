/**
 * Keyset paging over (createdAt, id), newest first: rows that come or go between two pages are neither shown twice nor hide
 * others. A cursor is opaque to the caller and bound to the filters that it was made under.
 */
import { createHash } from 'node:crypto';
import { ApiProperty } from '@nestjs/swagger';
import type { ObjectLiteral, SelectQueryBuilder } from 'typeorm';
import { isId, QueryInteger, Text } from './fields.js';
import { invalid } from './validation.js';

/** The place after which the next page begins. */
export interface Keyset {
  readonly createdAt: Date;
  readonly id: string;
}

export interface Page<T> {
  readonly data: T[];
  readonly next: string | null;
}

export class PageQuery {
  @QueryInteger({ min: 1, max: 100, default: 20, description: 'How many to give at most.' })
  limit?: number;

  @Text({
    optional: true,
    min: 1,
    max: 200,
    description: 'The `next` of the page before, under the same filters.',
  })
  cursor?: string;
}

export const DEFAULT_LIMIT = 20;

const digest = (filters: unknown): string =>
  createHash('sha256').update(JSON.stringify(filters)).digest('base64url').slice(0, 8);

export const encodeCursor = ({ createdAt, id }: Keyset, filters: unknown): string =>
  Buffer.from(JSON.stringify([createdAt.getTime(), id, digest(filters)])).toString('base64url');

/** @throws Problem validation-failed when the text is no cursor of this list under these filters */
export function decodeCursor(cursor: string | undefined, filters: unknown): Keyset | undefined {
  if (cursor === undefined) return undefined;
  try {
    const parsed: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (
      Array.isArray(parsed) &&
      parsed.length === 3 &&
      Number.isSafeInteger(parsed[0]) &&
      isId(parsed[1]) &&
      parsed[2] === digest(filters)
    ) {
      const createdAt = new Date(parsed[0] as number);
      const keyset = { createdAt, id: parsed[1] };
      // Exactly what was given out, and not what a lenient decoder makes of something else.
      if (!Number.isNaN(createdAt.getTime()) && encodeCursor(keyset, filters) === cursor)
        return keyset;
    }
  } catch {
    // Falls through: whatever is wrong with it, it is not a cursor.
  }
  throw invalid(
    'cursor',
    'cursor',
    'cursor is not the "next" of a page of this list under the same filters',
  );
}

/** A cursor of a list whose rows have numbers, e.g. an order's events; bound to `list`. */
export const encodePosition = (position: number, list: string): string =>
  Buffer.from(JSON.stringify([position, digest(list)])).toString('base64url');

/** @throws Problem validation-failed when the text is no cursor of this list */
export function decodePosition(cursor: string | undefined, list: string): number | undefined {
  if (cursor === undefined) return undefined;
  const position = Number(/^\[(\d{1,15}),/.exec(Buffer.from(cursor, 'base64url').toString())?.[1]);
  if (encodePosition(position, list) === cursor) return position;
  throw invalid('cursor', 'cursor', 'cursor is not the "next" of a page of this list');
}

/** What of a list is asked for; all of it when empty. */
export interface Part {
  /** Values that the rows have, by property, in the order in which an index has these columns before (createdAt, id). */
  readonly where?: Readonly<Record<string, string>>;
  readonly from?: Date | undefined;
  /** Exclusive. */
  readonly to?: Date | undefined;
}

/**
 * Orders and cuts a query of `row` for one page; one more row than asked tells whether there is a next page.
 *
 * A page is a range of one index, said as a comparison of rows that begins with the values asked for, and so does the order. Said as
 * `status = …`, PostgreSQL would be free to walk all rows by time and to leave out those that do not have it: it takes a value that
 * most rows have for one that is soon met, and reads all newer rows where none of these has it yet.
 */
export function keyset<E extends ObjectLiteral>(
  query: SelectQueryBuilder<E>,
  after: Keyset | undefined,
  limit: number,
  { where = {}, from, to }: Part = {},
): SelectQueryBuilder<E> {
  const names = Object.keys(where);
  const columns = [...names, 'createdAt'].map((name) => `row.${name}`);
  const placed = columns.join(', ');
  const at = (...place: string[]): string =>
    [...names.map((name) => `:${name}`), ...place].join(', ');
  query.setParameters(where);
  if (from || names.length > 0)
    query.andWhere(`(${placed}) >= (${at(from ? ':from' : `'-infinity'`)})`, { from });
  // A cursor was given out below `to`.
  if (after)
    query.andWhere(`(${placed}, row.id) < (${at(':afterTime', ':afterId')})`, {
      afterTime: after.createdAt,
      afterId: after.id,
    });
  else if (to || names.length > 0)
    query.andWhere(`(${placed}) < (${at(to ? ':to' : `'infinity'`)})`, { to });
  for (const column of [...columns, 'row.id']) query.addOrderBy(column, 'DESC');
  return query.limit(limit + 1);
}

/** A page out of up to `limit + 1` rows. */
export function pageOf<E extends Keyset, T>(
  rows: readonly E[],
  limit: number,
  filters: unknown,
  shape: (row: E) => T,
): Page<T> {
  const data = rows.slice(0, limit);
  const last = data.at(-1);
  return {
    data: data.map(shape),
    next: rows.length > limit && last ? encodeCursor(last, filters) : null,
  };
}

/** The same URL with another cursor, for `Link: <…>; rel="next"` (RFC 8288). */
export function nextLink(url: string, next: string): string {
  const [path = '', ...query] = url.split('?');
  const parameters = new URLSearchParams(query.join('?'));
  parameters.set('cursor', next);
  return `<${path}?${parameters.toString()}>; rel="next"`;
}

/** The OpenAPI schema of a page; a module extends it with its own `data`. */
export class PageShape {
  @ApiProperty({
    type: String,
    nullable: true,
    description: 'Pass as `cursor` for the next page; null on the last.',
    example: null,
  })
  next: string | null;
}
