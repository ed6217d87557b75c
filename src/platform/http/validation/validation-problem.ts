/**
 * Builds the `validation-failed` problem: one entry for each mistake in the body or in a parameter.
 */
import { type Problem, problems } from '../problems/problem.js';

export interface FieldError {
  /**
   * JSON Pointer (RFC 6901) to the member of the body, or `/` and the name of a parameter. Empty
   * for the whole body.
   */
  readonly pointer: string;
  /** The rule, in kebab-case. Part of the API's contract. */
  readonly code: string;
  /** One clause without a full stop. */
  readonly detail: string;
}

/** Entries in one problem. A body can have thousands of mistakes. */
export const MAX_FIELD_ERRORS = 50;
/** Entries whose text is repeated in the `detail` of the problem. */
const MAX_SUMMARIZED_ERRORS = 3;
/** Characters of a name that the client chose. */
const MAX_SHOWN_NAME_LENGTH = 64;

/** @param found more than MAX_FIELD_ERRORS when there are further ones; not necessarily all */
export function validationFailed(found: readonly FieldError[]): Problem {
  const errors = found.slice(0, MAX_FIELD_ERRORS);
  return problems.validationFailed(summaryOf(found), { extensions: { errors } });
}

function summaryOf(found: readonly FieldError[]): string {
  const details = found.map(({ detail }) => detail);
  const shown = details.slice(0, MAX_SUMMARIZED_ERRORS).join('; ');
  if (found.length > MAX_FIELD_ERRORS) {
    return `${shown}; and more, of which "errors" has the first ${MAX_FIELD_ERRORS}`;
  }
  const others = details.length - MAX_SUMMARIZED_ERRORS;
  return others > 0 ? `${shown}; and ${others} more` : shown;
}

/** For a parameter that no DTO checks. */
export const invalidParameter = (name: string, code: string, detail: string): Problem =>
  validationFailed([{ pointer: `/${name}`, code, detail }]);

/** Where a value is in the request. */
export interface Place {
  /** For programs, e.g. `/items/0/sku`. */
  readonly pointer: string;
  /** For people, e.g. `items[0].sku`. */
  readonly name: string;
}

/** The whole body, or the whole query. */
export const ROOT: Place = { pointer: '', name: '' };

export const memberOf = ({ pointer, name }: Place, member: string): Place => ({
  pointer: `${pointer}/${printable(member).replace(/~/g, '~0').replace(/\//g, '~1')}`,
  name: name === '' ? nameOf(member) : `${name}.${nameOf(member)}`,
});

export const elementOf = ({ pointer, name }: Place, index: number): Place => ({
  pointer: `${pointer}/${index}`,
  name: `${name}[${index}]`,
});

/** A name that the client chose: shortened, and without characters that act on terminals. */
export function printable(name: string): string {
  const safe = name.replace(/[\p{C}\u2028\u2029]/gu, '?');
  return safe.length > MAX_SHOWN_NAME_LENGTH ? `${safe.slice(0, MAX_SHOWN_NAME_LENGTH)}…` : safe;
}

/** In quotes when it would not be read as a name. */
const nameOf = (name: string): string =>
  /^[\p{L}\p{N}_$[\].-]+$/u.test(name) ? printable(name) : JSON.stringify(printable(name));

/** Names that other APIs have for a parameter of this one. In the form of {@link comparable}. */
const SYNONYMS: Readonly<Record<string, string>> = {
  page: 'cursor',
  offset: 'cursor',
  skip: 'cursor',
  after: 'cursor',
  next: 'cursor',
  perpage: 'limit',
  pagesize: 'limit',
  size: 'limit',
  count: 'limit',
  max: 'limit',
};

const comparable = (name: string): string => name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');

/** The known name that the client may have meant; undefined without such a name. */
function meantName(name: string, known: readonly string[]): string | undefined {
  const written = comparable(name);
  const sameName = known.find((candidate) => comparable(candidate) === written);
  if (sameName !== undefined) return sameName;
  const synonym = Object.hasOwn(SYNONYMS, written) ? SYNONYMS[written] : undefined;
  return known.find((candidate) => candidate === synonym);
}

/** @param known the names that the object has */
export function unknownProperty(parent: Place, name: string, known: readonly string[]): FieldError {
  const { pointer, name: shown } = memberOf(parent, name);
  const meant = meantName(name, known);
  const advice = meant === undefined ? '' : `; use ${meant}`;
  const detail = `${shown} is not a property of this request${advice}`;
  return { pointer, code: 'unknown-property', detail };
}

/** @param known the parameters that the route has */
export function unknownParameter(name: string, known: readonly string[]): FieldError {
  const { pointer, name: shown } = memberOf(ROOT, name);
  const others = known.length === 0 ? 'this route has none' : `use ${known.join(', ')}`;
  const meant = meantName(name, known);
  const advice = meant === undefined ? others : `use ${meant}`;
  const detail = `${shown} is not a query parameter; ${advice}`;
  return { pointer, code: 'unknown-property', detail };
}
