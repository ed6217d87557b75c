/**
 * What is checked of every answer, by name, and the findings: answers that fail a check. Names
 * without a dash are those of Schemathesis (schemathesis.readthedocs.io) for the same check.
 */
import type { WireRequest } from '../../support/http-client.js';

export const CHECKS = {
  not_a_server_error: 'no answer is a server error',
  status_code_conformance: 'status and problem code are documented for the operation',
  content_type_conformance: 'the media type is the documented one',
  response_headers_conformance: 'headers are documented and have the documented form',
  response_schema_conformance: 'the body fits the documented schema',
  negative_data_rejection: 'a request that the document forbids is refused',
  positive_data_acceptance: 'a request that the document allows is not called invalid',
  missing_required_header: 'a request without a required header is refused',
  unsupported_method: 'a method that the path lacks is answered with 405 and Allow',
  use_after_free: 'what was deleted or ended cannot be used again',
  ensure_resource_availability: 'what was created can be read at its Location',
  ignored_auth: 'an operation that needs a session refuses requests without one',
  'foreign-object': "no caller without a role reads or changes another user's objects",
  'problem-form': 'every error is a problem (RFC 9457) with the id of the request',
  'internal-text': 'no error shows a stack, SQL or text of a parser',
  'security-headers': 'every answer has the security headers',
  'raw-connection': 'broken bytes get a documented answer or a closed connection',
  'raw-smuggling': 'no byte of a body is read as a request',
  'raw-commit': 'a complete request is answered before what follows it',
  'still-serving': 'the service answers afterwards',
  'rate-limit': 'requests past the limit get 429, in the documented form',
  'log-errors': 'the log has no errors and no stacks',
  'log-secrets': 'the log has no tokens and no passwords',
  'bounded-memory': 'the process lives, and its memory is bounded',
} as const;

export type Check = keyof typeof CHECKS;

export interface Finding {
  readonly check: Check;
  /** An operationId, or what stands in for one. */
  readonly operation: string;
  /** Which kind of request. */
  readonly kind: string;
  readonly details: string;
  /** Repeats the request on a running service. */
  readonly curl: string;
}

/** Findings with the same key are one defect. */
const keyOf = ({ check, operation, details }: Finding): string =>
  `${check} ${operation} ${details.slice(0, 40)}`;

/** Requests and checks of a run, and what was found. */
export class Tally {
  requests = 0;
  /** Answers with 503 and Retry-After: allowed on a busy machine, if they are few. */
  unavailable = 0;
  readonly byOperation = new Map<string, number>();
  readonly byCheck = new Map<Check, number>();
  private readonly found = new Map<string, Finding>();

  get findings(): Finding[] {
    return [...this.found.values()];
  }

  countRequest(operation: string): void {
    this.requests++;
    this.byOperation.set(operation, (this.byOperation.get(operation) ?? 0) + 1);
  }

  countCheck(check: Check, times = 1): void {
    this.byCheck.set(check, (this.byCheck.get(check) ?? 0) + times);
  }

  has(finding: Finding): boolean {
    return this.found.has(keyOf(finding));
  }

  /** Keeps one finding for each defect: the last one, which is the smallest after shrinking. */
  report(finding: Finding): void {
    this.found.set(keyOf(finding), finding);
  }
}

/** The request as a command line. */
export function curlOf(origin: string, { method, path, headers, payload }: WireRequest): string {
  const fields = Object.entries(headers).flatMap(([name, values]) =>
    [values].flat().map((value) => `-H ${quote(`${name}: ${value}`)}`),
  );
  const body = payload === undefined ? [] : [`--data-binary ${quote(payload.toString('latin1'))}`];
  const url = quote(`${origin}${path}`);
  return ['curl -sS -i --path-as-is --globoff', `-X ${method}`, ...fields, ...body, url].join(' ');
}

/** A word of bash, also for bytes that are not printable. */
function quote(text: string): string {
  if (/^[\x20-\x7e]*$/.test(text)) return `'${text.replace(/'/g, `'\\''`)}'`;
  const escaped = text.replace(
    /[^\x20-\x26\x28-\x5b\x5d-\x7e]/g,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
  return `$'${escaped}'`;
}

/** A finding as it is printed. */
export const textOf = ({ check, operation, kind, details, curl }: Finding): string =>
  `${check}: ${operation}, ${kind}: ${details}\n    ${curl}`;
