/**
 * The currencies in which orders can be placed: legal tender somewhere today, by the Unicode CLDR,
 * which follows ISO 4217 and publishes twice a year (npm package cldr-core). Metals, units of
 * account and codes for tests (XAU, XDR, XTS) are tender nowhere. Node's own list is older.
 */
import { createRequire } from 'node:module';

/** Days as `2026-01-31`, both included. */
interface Validity {
  readonly _from?: string;
  readonly _to?: string;
  /** `false` for units of account, metals and codes for tests. */
  readonly _tender?: string;
}

interface CurrencyData {
  readonly supplemental: {
    readonly currencyData: {
      readonly region: Readonly<Record<string, readonly Readonly<Record<string, Validity>>[]>>;
    };
  };
}

const { currencyData } = (
  createRequire(import.meta.url)('cldr-core/supplemental/currencyData.json') as CurrencyData
).supplemental;

function isTenderOn(day: string, { _from, _to, _tender }: Validity): boolean {
  const hasBegun = _from === undefined || _from <= day;
  const hasEnded = _to !== undefined && _to < day;
  return _tender !== 'false' && hasBegun && !hasEnded;
}

/**
 * The codes that are legal tender in some region on a day, in alphabetical order.
 * @param day e.g. `2026-01-31`
 */
export function currenciesOn(day: string): string[] {
  const uses = Object.values(currencyData.region)
    .flat()
    .flatMap((codes) => Object.entries(codes));
  const codes = uses.filter(([, validity]) => isTenderOn(day, validity)).map(([code]) => code);
  return [...new Set(codes)].sort();
}

/** The codes on the day of the start. Orders keep a code that has left this list since. */
export const CURRENCIES: readonly string[] = currenciesOn(new Date().toISOString().slice(0, 10));
