/**
 * Entity tags of If-Match and If-None-Match, and their two comparisons (RFC 9110, section 8.8.3).
 * The entity tag of a representation is its version in quotes: always strong.
 */

/** Entity tags that a request lists, or `*` for any. */
export type EntityTags = readonly string[] | '*';

export const entityTagOf = (version: number): string => `"${version}"`;

/** `entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE` (RFC 9110, section 8.8.3). */
const ENTITY_TAG = /(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/g;

/** Reads a header's entity tags. Text that is not an entity tag is skipped. */
export function parseEntityTags(header: string): EntityTags {
  if (header.trim() === '*') return '*';
  return header.match(ENTITY_TAG) ?? [];
}

/** A list may have empty elements (RFC 9110, section 5.6.1.2). */
const SEPARATORS = /^[\t ]*(?:,[\t ]*)*$/;

/** Whether a header is `*`, or lists at least one entity tag and nothing else. */
export function isEntityTagList(header: string): boolean {
  if (header.trim() === '*') return true;
  const rest = header.split(ENTITY_TAG);
  const areSeparated = rest.slice(1, -1).every((text) => text.includes(','));
  return rest.length > 1 && areSeparated && rest.every((text) => SEPARATORS.test(text));
}

/** Strong comparison, for If-Match: a weak tag never matches (RFC 9110, section 8.8.3.2). */
export const matchesStrongly = (tags: EntityTags, current: string): boolean =>
  tags === '*' || tags.includes(current);

/** Weak comparison, for If-None-Match: `W/"1"` matches `"1"` (RFC 9110, section 8.8.3.2). */
export const matchesWeakly = (tags: EntityTags, current: string): boolean =>
  tags === '*' || tags.some((tag) => tag.replace(/^W\//, '') === current);
