/**
 * What stands around every payload: the schema number of the release that wrote it and the key's own value, so that a reader
 * takes only what it understands and what belongs to the key it asked for. The number is in the payload and not in the key:
 * every release fences one and the same key, whatever it can read (docs/adr/0003-schema-in-the-payload.md). Besides, when the
 * entry expires, by the clock of whoever wrote it: a hint for refreshing it beforehand, and nothing else.
 *
 * Form: `<schema>|<expiry in seconds since 1970, or ~token of its refresher>|<length of value>|<value><payload>`.
 */
export type Opened =
  | {
      readonly kind: 'payload';
      readonly payload: string;
      /** Milliseconds since 1970; Infinity when somebody refreshes it. */
      readonly expires: number;
    }
  /** Written by a later release: right, but not for us to read or to replace. */
  | { readonly kind: 'newer' }
  /** Of an earlier release, of another key, or damaged: to be replaced. */
  | { readonly kind: 'unreadable' };

const SCHEMA = /^(\d{1,6})\|/;
const HEAD = /^\d{1,6}\|(?:(\d{1,12})|~[\w-]+)\|(\d{1,6})\|/;
const EXPIRY = /(?<=^\d{1,6}\|)\d{1,12}(?=\|)/;

/** @param ttlMs how long the entry is going to live */
export const seal = (schema: number, value: string, payload: string, ttlMs: number): string =>
  `${schema}|${Math.ceil((Date.now() + ttlMs) / 1000)}|${value.length}|${value}${payload}`;

/** The same text, taken by the refresher with this token: no other text is like it. */
export const claim = (text: string, token: string): string => text.replace(EXPIRY, `~${token}`);

export function open(schema: number, value: string, text: string): Opened {
  const written = Number(SCHEMA.exec(text)?.[1]);
  if (written > schema) return { kind: 'newer' };
  const head = HEAD.exec(text);
  if (!head || written < schema) return { kind: 'unreadable' };
  const [{ length }, expires, valueLength] = [head[0], head[1], Number(head[2])];
  if (text.slice(length, length + valueLength) !== value) return { kind: 'unreadable' };
  const payload = text.slice(length + valueLength);
  return {
    kind: 'payload',
    payload,
    expires: expires === undefined ? Infinity : Number(expires) * 1000,
  };
}
