/** Pages and cursors, and the currencies of orders. */
import type { Mutant } from '../mutant.js';

const pages = {
  file: 'src/platform/http/pagination.ts',
  specs: ['test/platform/http/page-rows.spec.ts'],
};
const currencies = {
  file: 'src/orders/currencies.ts',
  specs: ['test/orders/currencies.spec.ts'],
  tests: 'the list of currencies',
};

export const PAGE_MUTANTS: readonly Mutant[] = [
  {
    ...pages,
    name: 'page-of-any-size',
    without: 'a page has as many bytes as its rows',
    text: 'const isTooLarge = bytes > MAX_PAGE_BYTES && texts.length > 0;',
    replacement: 'const isTooLarge = bytes > MAX_PAGE_BYTES * 1e6 && texts.length > 0;',
  },
  {
    ...pages,
    name: 'page-without-a-large-row',
    without: 'a row that is larger than a page hides all rows behind it',
    text: 'const isTooLarge = bytes > MAX_PAGE_BYTES && texts.length > 0;',
    replacement: 'const isTooLarge = bytes > MAX_PAGE_BYTES;',
  },
  {
    ...pages,
    name: 'page-counted-in-characters',
    without: 'a page of other scripts has up to three times its bytes',
    text: 'bytes += Buffer.byteLength(text);',
    replacement: 'bytes += text.length;',
  },
  {
    ...pages,
    name: 'page-of-all-rows-at-once',
    without: 'all rows of a page are read before the first one is counted',
    text: 'const count = Math.min(missing, maxRows);',
    replacement: 'const count = Math.max(missing, Math.min(1, maxRows));',
  },
  {
    ...pages,
    name: 'page-of-all-keys-at-once',
    without: 'all rows of a list of ids are read before the first one is counted',
    text: 'keys.slice(from, from + MAX_ROWS_PER_READ)',
    replacement: 'from === 0 ? keys : []',
  },
  {
    ...pages,
    name: 'page-without-the-row-after-it',
    without: 'a full page does not say that there are more',
    text: 'for (let missing = limit + 1; missing > 0;',
    replacement: 'for (let missing = limit; missing > 0;',
  },
  {
    ...pages,
    name: 'page-read-to-the-end',
    without: 'reading goes on behind the last row',
    text: '    if (rows.length < count) return;\n',
    replacement: '',
  },
  {
    ...pages,
    name: 'cursor-of-another-list',
    without: 'a cursor of one list is used in another one',
    text: 'if (keyset && encodeCursor(keyset, filters) === cursor) return keyset;',
    replacement: 'if (keyset && encodeCursor(keyset, filters) !== null) return keyset;',
  },
  {
    ...pages,
    name: 'cursor-outside-the-calendar',
    without: 'a cursor with a time that PostgreSQL does not know ends in a server error',
    text: 'return isInCalendar && isId(id) ?',
    replacement: 'return (isInCalendar || true) && isId(id) ?',
  },
  {
    ...pages,
    name: 'cursor-of-positions-of-another-list',
    without: 'a cursor of the events of one order is used for another one',
    text: 'encodePosition(position, list) === cursor',
    replacement: "encodePosition(position, list) !== ''",
  },
  {
    ...currencies,
    name: 'currency-out-of-use',
    without: 'orders are placed in currencies that are out of use',
    text: 'const hasEnded = _to !== undefined && _to < day;',
    replacement: 'const hasEnded = _to !== undefined && _to < day && false;',
  },
  {
    ...currencies,
    name: 'currency-before-its-first-day',
    without: 'orders are placed in currencies that do not exist yet',
    text: 'const hasBegun = _from === undefined || _from <= day;',
    replacement: 'const hasBegun = _from === undefined || _from !== day + 1;',
  },
  {
    ...currencies,
    name: 'currency-that-is-no-tender',
    without: 'orders are placed in gold, units of account and codes for tests',
    text: "return _tender !== 'false' && hasBegun",
    replacement: "return _tender !== '' && hasBegun",
  },
];
