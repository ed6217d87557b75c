/**
 * Keyset pagination, newest first: rows that are inserted or deleted between two pages are neither
 * repeated nor do they hide others. A cursor is opaque to the client and valid only for the filters
 * of its page.
 */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { ApiProperty } from '@nestjs/swagger';
import type { ObjectLiteral, SelectQueryBuilder } from 'typeorm';
import { JsonBody } from './conditional/representation.js';
import { MAX_PAGE_BYTES, MAX_ROWS_PER_READ } from './bounds/bounds.js';
import { isId } from './validation/faults.js';
import { QueryInteger, Text } from './validation/fields.js';
import { invalidParameter } from './validation/validation-problem.js';

/** Position of a row in the order of (createdAt, id). */
export interface Keyset {
  readonly createdAt: Date;
  readonly id: string;
}

export interface Page<T> {
  readonly data: T[];
  readonly next: string | null;
}

export const DEFAULT_LIMIT = 20;
const MAX_LIMIT = 100;
const MAX_CURSOR_LENGTH = 200;
const LARGE_BATCH_BYTES = 128 * 1_024;
/** The years 1 to 9999, which times of this API have. JavaScript knows more than PostgreSQL. */
const CALENDAR_MS = {
  min: Date.parse('0001-01-01T00:00:00.000Z'),
  max: Date.parse('9999-12-31T23:59:59.999Z'),
};

export class PageQuery {
  @QueryInteger({
    min: 1,
    max: MAX_LIMIT,
    default: DEFAULT_LIMIT,
    description: 'The maximum number of results.',
  })
  limit?: number;

  @Text({
    optional: true,
    min: 1,
    max: MAX_CURSOR_LENGTH,
    description: 'The `next` of the previous page. Send it with the same filters.',
  })
  cursor?: string;
}

/** Binds a cursor's position to the filters of its list, and shows that nobody has edited it. */
const digest = (...parts: unknown[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('base64url').slice(0, 8);

const toBase64url = (value: unknown): string =>
  Buffer.from(JSON.stringify(value)).toString('base64url');

export function encodeCursor({ createdAt, id }: Keyset, filters: unknown): string {
  const time = createdAt.getTime();
  return toBase64url([time, id, digest(filters, time, id)]);
}

/**
 * @returns undefined without a cursor: the first page
 * @throws Problem validation-failed when it is not a cursor of this list with these filters
 */
export function decodeCursor(cursor: string | undefined, filters: unknown): Keyset | undefined {
  if (cursor === undefined) return undefined;
  const keyset = parseCursor(cursor);
  // Base64url decoding is lenient: accept only the exact text that was issued.
  if (keyset && encodeCursor(keyset, filters) === cursor) return keyset;
  throw invalidParameter(
    'cursor',
    'cursor',
    'cursor must be the "next" of a page of this list with the same filters',
  );
}

/** The position in a cursor, whatever its filters; undefined when it has none. */
function parseCursor(cursor: string): Keyset | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(cursor, 'base64url').toString());
  } catch {
    return undefined;
  }
  if (!Array.isArray(parsed)) return undefined;
  const [time, id] = parsed as unknown[];
  const isInCalendar = Number.isSafeInteger(time) && isInRange(time as number, CALENDAR_MS);
  return isInCalendar && isId(id) ? { createdAt: new Date(time as number), id } : undefined;
}

const isInRange = (value: number, { min, max }: { min: number; max: number }): boolean =>
  value >= min && value <= max;

/**
 * A cursor for a list whose rows are numbered, e.g. the events of an order. Valid for `list` only.
 */
export const encodePosition = (position: number, list: string): string =>
  toBase64url([position, digest(list, position)]);

/**
 * @returns undefined without a cursor: the first page
 * @throws Problem validation-failed when it is not a cursor of this list
 */
export function decodePosition(cursor: string | undefined, list: string): number | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString();
  const [, digits] = /^\[(\d{1,15}),/.exec(text) ?? [];
  // NaN as JSON is null, which another cursor may hold.
  const position = digits === undefined ? undefined : Number(digits);
  if (position !== undefined && encodePosition(position, list) === cursor) return position;
  throw invalidParameter('cursor', 'cursor', 'cursor must be the "next" of a page of this list');
}

/** The rows of a list, before pagination. All rows when empty. */
export interface KeysetRange {
  /**
   * Property → value that the rows have. In the order in which an index has these columns before
   * (createdAt, id).
   */
  readonly where?: Readonly<Record<string, string>>;
  /** Inclusive. */
  readonly from?: Date | undefined;
  /** Exclusive. */
  readonly to?: Date | undefined;
}

const tuple = (...values: string[]): string => `(${values.join(', ')})`;

/**
 * Adds the conditions, the order and the limit of one page to a query with the alias `row`. It
 * selects one row more than `limit`: toPage uses it to know whether there is a next page.
 *
 * Filters are part of row comparisons, e.g. `(status, created_at) >= ('placed', '-infinity')`, so
 * that a page is one range of one index. With `status = 'placed'`, PostgreSQL may instead scan the
 * index on time and skip other rows, which reads the whole table when matching rows are old.
 */
export function applyKeyset<E extends ObjectLiteral>(
  query: SelectQueryBuilder<E>,
  after: Keyset | undefined,
  limit: number,
  { where = {}, from, to }: KeysetRange = {},
): SelectQueryBuilder<E> {
  const filters = Object.keys(where);
  const isFiltered = filters.length > 0;
  const filterColumns = filters.map((name) => `row.${name}`);
  const filterValues = filters.map((name) => `:${name}`);
  query.setParameters(where);

  // Lower bound: the filters and `from`.
  const columns = tuple(...filterColumns, 'row.createdAt');
  if (from || isFiltered) {
    const lowerBound = tuple(...filterValues, from ? ':from' : `'-infinity'`);
    query.andWhere(`${columns} >= ${lowerBound}`, { from });
  }

  // Upper bound: the cursor, which is below `to` already, or the filters and `to`.
  if (after) {
    const columnsWithId = tuple(...filterColumns, 'row.createdAt', 'row.id');
    const cursor = tuple(...filterValues, ':afterTime', ':afterId');
    const position = { afterTime: after.createdAt, afterId: after.id };
    query.andWhere(`${columnsWithId} < ${cursor}`, position);
  } else if (to || isFiltered) {
    const upperBound = tuple(...filterValues, to ? ':to' : `'infinity'`);
    query.andWhere(`${columns} < ${upperBound}`, { to });
  }

  for (const column of [...filterColumns, 'row.createdAt', 'row.id']) {
    query.addOrderBy(column, 'DESC');
  }
  return query.limit(limit + 1);
}

/** @param rows up to `limit + 1` rows, as {@link applyKeyset} selects them */
export function toPage<E extends Keyset, T>(
  rows: readonly E[],
  limit: number,
  filters: unknown,
  shape: (row: E) => T,
): Page<T> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  const hasNext = rows.length > limit && last !== undefined;
  return { data: shown.map(shape), next: hasNext ? encodeCursor(last, filters) : null };
}

/** The first rows of a list that fit into a page. */
export interface PageRows<E> {
  /** The JSON of each row. */
  readonly texts: string[];
  /** The row of the last entry of `texts`; undefined when there is none. */
  readonly last: E | undefined;
  readonly hasNext: boolean;
}

/** A page whose rows are serialized already: their bytes were counted. */
export class SerializedPage extends JsonBody {
  constructor(
    private readonly texts: readonly string[],
    readonly next: string | null,
  ) {
    super();
  }

  get json(): string {
    return `{"data":[${this.texts.join()}],"next":${JSON.stringify(this.next)}}`;
  }
}

/**
 * Takes up to `limit` rows, and fewer when their JSON exceeds MAX_PAGE_BYTES together: at least
 * one. Rows may be as large as a request body, so no more of them are read than are needed.
 * @param batches rows in the order of the list, at most MAX_ROWS_PER_READ at a time
 * @param serialize the JSON of a row
 */
export async function takePage<E>(
  batches: AsyncIterable<readonly E[]>,
  limit: number,
  serialize: (row: E) => string,
): Promise<PageRows<E>> {
  const texts: string[] = [];
  let last: E | undefined;
  let bytes = 0;
  for await (const rows of batches) {
    // Large rows took milliseconds to read: others get their turn of the event loop.
    if (bytes > LARGE_BATCH_BYTES) await setImmediate();
    for (const row of rows) {
      if (texts.length === limit) return { texts, last, hasNext: true };
      const text = serialize(row);
      bytes += Buffer.byteLength(text);
      const isTooLarge = bytes > MAX_PAGE_BYTES && texts.length > 0;
      if (isTooLarge) {
        await setImmediate();
        return { texts, last, hasNext: true };
      }
      texts.push(text);
      last = row;
    }
  }
  return { texts, last, hasNext: false };
}

/** Rows of `keys`, in batches for {@link takePage}. Keys without a row are left out. */
export async function* readByKeys<E>(
  keys: readonly string[],
  read: (keys: readonly string[]) => Promise<(E | null)[]>,
): AsyncGenerator<E[]> {
  for (let from = 0; from < keys.length; from += MAX_ROWS_PER_READ) {
    const rows = await read(keys.slice(from, from + MAX_ROWS_PER_READ));
    yield rows.filter((row) => row !== null);
  }
}

/**
 * Rows of a query, in batches for {@link takePage}.
 * @param after where the page begins
 * @param limit of the page; one row more is read, which tells whether there is a next page
 * @param read reads up to `count` rows after a position
 */
export async function* readByPosition<P, E extends P>(
  after: P | undefined,
  limit: number,
  read: (after: P | undefined, count: number) => Promise<E[]>,
  maxRows = MAX_ROWS_PER_READ,
): AsyncGenerator<E[]> {
  let position = after;
  for (let missing = limit + 1; missing > 0; missing -= maxRows) {
    const count = Math.min(missing, maxRows);
    const rows = await read(position, count);
    yield rows;
    if (rows.length < count) return;
    position = rows.at(-1);
  }
}

/** A page of {@link takePage} whose cursor is a keyset. */
export const toKeysetPage = <E extends Keyset>(
  { texts, last, hasNext }: PageRows<E>,
  filters: unknown,
): SerializedPage =>
  new SerializedPage(texts, hasNext && last ? encodeCursor(last, filters) : null);

/** The value of `Link` (RFC 8288): the same URL with another cursor. */
export function nextLink(url: string, next: string): string {
  const [path = '', ...query] = url.split('?');
  const parameters = new URLSearchParams(query.join('?'));
  parameters.set('cursor', next);
  return `<${path}?${parameters.toString()}>; rel="next"`;
}

/** The OpenAPI schema of a page. A module extends it with its own `data`. */
export class PageShape {
  @ApiProperty({
    type: String,
    nullable: true,
    description:
      'Send it as `cursor` to get the next page. Null on the last page. A page has fewer results ' +
      'than `limit` if they exceed 1 MiB together.',
    example: null,
  })
  next: string | null;
}
