/**
 * The envelope around every cached payload: schema number, expiry and the key's value. A reader
 * accepts only payloads of its own schema that were written for the key it asked for
 * (docs/adr/0003-schema-in-the-payload.md).
 *
 * Form: `<schema>|<expiry>|<length of value>|<value><payload>`
 */

/**
 * What {@link openEnvelope} found. The schema number is in the payload and not in the key, so that
 * two releases with different schemas still fence the same key.
 */
export type OpenedEnvelope =
  | {
      readonly kind: 'payload';
      readonly payload: string;
      /**
       * Milliseconds since 1970, by the clock of the node that wrote the entry; Infinity while a
       * node refreshes it. A hint for refreshing ahead: the store decides when an entry expires.
       */
      readonly expiresAt: number;
    }
  /** Written by a later release. The entry is valid there, so this release must not replace it. */
  | { readonly kind: 'newer' }
  /** From an earlier release, of another key, or damaged. The entry must be replaced. */
  | { readonly kind: 'unreadable' };

const SCHEMA = /^(\d{1,6})\|/;
/**
 * Schema, expiry, length of the value. The expiry is in seconds since 1970, or `~<token>` of the
 * node that refreshes the entry. Groups: the expiry in seconds, the length.
 */
const HEAD = /^\d{1,6}\|(?:(\d{1,12})|~[\w-]+)\|(\d{1,6})\|/;
const EXPIRY = /(?<=^\d{1,6}\|)\d{1,12}(?=\|)/;

/** @param ttlMs how long the entry is going to live */
export function sealEnvelope(
  schema: number,
  value: string,
  payload: string,
  ttlMs: number,
): string {
  const expirySeconds = Math.ceil((Date.now() + ttlMs) / 1000);
  return `${schema}|${expirySeconds}|${value.length}|${value}${payload}`;
}

/** The same envelope with the refresher's token for an expiry: a text that nobody else writes. */
export const claimForRefresh = (text: string, token: string): string =>
  text.replace(EXPIRY, `~${token}`);

/**
 * @param schema the schema number of this release
 * @param value the value of the key that was read
 */
export function openEnvelope(schema: number, value: string, text: string): OpenedEnvelope {
  const writtenSchema = Number(SCHEMA.exec(text)?.[1]);
  if (writtenSchema > schema) return { kind: 'newer' };
  const head = HEAD.exec(text);
  if (!head || writtenSchema < schema) return { kind: 'unreadable' };
  const [{ length: headLength }, expirySeconds, valueLength] = head;
  const payloadStart = headLength + Number(valueLength);
  if (text.slice(headLength, payloadStart) !== value) return { kind: 'unreadable' };
  return {
    kind: 'payload',
    payload: text.slice(payloadStart),
    expiresAt: expirySeconds === undefined ? Infinity : Number(expirySeconds) * 1000,
  };
}
