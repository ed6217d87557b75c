/**
 * Builds the `validation-failed` problem: one entry for each rule that a member of the body or a
 * parameter violates.
 */
import { type Problem, problems } from '../problems/problem.js';

export interface FieldError {
  /** JSON Pointer (RFC 6901) to the member of the body, or `/` and the name of a parameter. */
  readonly pointer: string;
  /** The rule, in kebab-case. Part of the API's contract. */
  readonly code: string;
  readonly detail: string;
}

/** Entries in one problem. A body can have thousands of errors. */
export const MAX_FIELD_ERRORS = 50;
/** Entries whose text is repeated in the `detail` of the problem. */
const MAX_SUMMARIZED_ERRORS = 3;
/** Characters of a name that the client chose. */
const MAX_SHOWN_NAME_LENGTH = 64;

export function validationFailed(found: readonly FieldError[]): Problem {
  const errors = found.slice(0, MAX_FIELD_ERRORS);
  const details = new Set(errors.map(({ detail }) => detail));
  const summary = [...details].slice(0, MAX_SUMMARIZED_ERRORS).join('; ');
  return problems.validationFailed(summary, { extensions: { errors } });
}

/** For a parameter that no DTO checks. */
export const invalidParameter = (name: string, code: string, detail: string): Problem =>
  validationFailed([{ pointer: `/${name}`, code, detail }]);

/** A name that the client chose, shortened and without characters that act on terminals. */
export const printable = (name: string): string =>
  name.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_SHOWN_NAME_LENGTH);

/** The JSON Pointer (RFC 6901) to a member of what `parent` points to. */
export const pointerTo = (parent: string, name: string): string =>
  `${parent}/${printable(name).replace(/~/g, '~0').replace(/\//g, '~1')}`;

/** @param detail completes the sentence, e.g. `is not a parameter of this route` */
export const unknownProperty = (parent: string, name: string, detail: string): FieldError => ({
  pointer: pointerTo(parent, name),
  code: 'unknown-property',
  detail: `${printable(name)} ${detail}`,
});
