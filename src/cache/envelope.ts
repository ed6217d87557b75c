/**
 * What stands around every payload: the schema number of the release that wrote it and the key's own value, so that a reader
 * takes only what it understands and what belongs to the key it asked for. The number is in the payload and not in the key:
 * every release fences one and the same key, whatever it can read (docs/adr/0003-schema-in-the-payload.md).
 *
 * Form: `<schema>|<length of value>|<value><payload>`.
 */
export type Opened =
  | { readonly kind: 'payload'; readonly payload: string }
  /** Written by a later release: right, but not for us to read or to replace. */
  | { readonly kind: 'newer' }
  /** Of an earlier release, of another key, or damaged: to be replaced. */
  | { readonly kind: 'unreadable' };

const HEAD = /^(\d{1,6})\|(\d{1,6})\|/;

export const seal = (schema: number, value: string, payload: string): string =>
  `${schema}|${value.length}|${value}${payload}`;

export function open(schema: number, value: string, text: string): Opened {
  const head = HEAD.exec(text);
  if (!head) return { kind: 'unreadable' };
  const [{ length }, written, valueLength] = [head[0], Number(head[1]), Number(head[2])];
  if (written > schema) return { kind: 'newer' };
  if (written < schema || text.slice(length, length + valueLength) !== value) return { kind: 'unreadable' };
  return { kind: 'payload', payload: text.slice(length + valueLength) };
}
