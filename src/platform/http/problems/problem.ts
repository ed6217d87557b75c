/**
 * Refusals: one catalogue of coded problems (RFC 9457). A module declares its own in its `*.errors.ts` with
 * {@link defineProblem} and throws them; the filter, the OpenAPI document and the pages under /problems/<code> read the same
 * declarations, so that what is thrown, documented and explained cannot drift apart.
 */

/** What all occurrences of one problem share. */
export interface ProblemType {
  /** Kebab-case, part of the API's contract: `type` is /problems/<code>. */
  readonly code: string;
  readonly status: number;
  /** Short, the same for every occurrence. */
  readonly title: string;
  /** For the page: what happened and what the caller can do about it. */
  readonly explanation: string;
  /** Members beside the standard ones as they may look, for the documentation. */
  readonly example?: Readonly<Record<string, unknown>>;
}

export interface ProblemDetails {
  /** What is particular to this occurrence; never SQL, parser text or a stack. */
  readonly detail?: string;
  /** Members beside the standard ones, e.g. `errors`, `allowed`. */
  readonly extensions?: Readonly<Record<string, unknown>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
  /** The id of the user that it is about where no session says it: for the security log, never in the answer. */
  readonly account?: string | undefined;
  /** That "not found" means "not for this caller": for the security log, never in the answer. */
  readonly hides?: boolean;
}

/** A coded refusal. Thrown by services, rendered only by problem.filter.ts. */
export class Problem extends Error {
  constructor(
    readonly type: ProblemType,
    readonly details: ProblemDetails = {},
  ) {
    super(details.detail ?? type.title, { cause: details.cause });
    this.name = `Problem(${type.code})`;
  }
}

/** A problem's declaration; calling it makes the error to throw. */
export interface ProblemFactory extends ProblemType {
  (detail?: string, more?: Omit<ProblemDetails, 'detail'>): Problem;
}

const catalogue = new Map<string, ProblemType>();

/** @throws Error when the code is taken: a mistake of the program, found at the start */
export function defineProblem(type: ProblemType): ProblemFactory {
  if (catalogue.has(type.code)) throw new Error(`problem ${type.code} is declared twice`);
  catalogue.set(type.code, type);
  const make = (detail?: string, more: Omit<ProblemDetails, 'detail'> = {}): Problem =>
    new Problem(type, detail === undefined ? more : { ...more, detail });
  return Object.assign(make, type);
}

/** Every problem that was declared, by code. */
export const problemCatalogue: ReadonlyMap<string, ProblemType> = catalogue;

/** The unique and check constraints behind a rule, by name, and the problem that breaking one is. */
const constraints = new Map<string, ProblemFactory>();

/** Says which problem a database constraint stands behind, so that a race that only PostgreSQL sees ends in the same answer. */
export function mapConstraint(name: string, problem: ProblemFactory): void {
  constraints.set(name, problem);
}

export const problemOfConstraint = (name: string | undefined): ProblemFactory | undefined =>
  name === undefined ? undefined : constraints.get(name);

/** Seconds after which a caller may try again when a part of the service is gone or full. */
const RETRY_AFTER = { 'Retry-After': '1' };

/** The problems that are HTTP's own, or any route's. */
export const problems = {
  malformedJson: defineProblem({
    code: 'malformed-json',
    status: 400,
    title: 'The body is not JSON',
    explanation:
      'The body must be one JSON value in UTF-8 (RFC 8259), nested at most 32 levels deep, without a "__proto__" member.',
  }),
  malformedUrl: defineProblem({
    code: 'malformed-url',
    status: 400,
    title: 'The URL is not well-formed',
    explanation:
      'Percent-encoding in the path or the query is incomplete or does not stand for UTF-8 text (RFC 3986, section 2.1).',
  }),
  malformedRequest: defineProblem({
    code: 'malformed-request',
    status: 400,
    title: 'The request is not well-formed HTTP',
    explanation: 'The request line, a header or the framing of the body breaks RFC 9112.',
  }),
  headersTooLarge: defineProblem({
    code: 'headers-too-large',
    status: 431,
    title: 'The headers are too large',
    explanation: 'All headers of a request together may have 16 KiB (RFC 6585, section 5).',
  }),
  validationFailed: defineProblem({
    code: 'validation-failed',
    status: 400,
    title: 'The request breaks a rule',
    explanation:
      'Each entry of "errors" has a JSON pointer to a member of the body (or the name of a parameter), the code of the rule and a sentence.',
    example: {
      detail: 'limit must be a whole number from 1 to 100',
      errors: [
        {
          pointer: '/limit',
          code: 'integer',
          detail: 'limit must be a whole number from 1 to 100',
        },
      ],
    },
  }),
  valueRefused: defineProblem({
    code: 'value-refused',
    status: 400,
    title: 'The database refuses a value',
    explanation:
      'A value passed the rules of this API and broke one of the database behind it. Nothing was changed. Quote "requestId" when you report it: the rule in front is missing.',
  }),
  conflict: defineProblem({
    code: 'conflict',
    status: 409,
    title: 'Another request was first',
    explanation:
      'What the request refers to has gone, or what it makes is there already, by a request that ran at the same moment. Nothing was changed: read again, decide again.',
  }),
  unauthenticated: defineProblem({
    code: 'unauthenticated',
    status: 401,
    title: 'No live session',
    explanation:
      'The route needs "Authorization: Bearer <token>" with the token of a live session: POST /v1/sessions makes one.',
  }),
  forbidden: defineProblem({
    code: 'forbidden',
    status: 403,
    title: 'A role is lacking',
    explanation: 'The caller is known but has none of the roles that this route needs.',
  }),
  notFound: defineProblem({
    code: 'not-found',
    status: 404,
    title: 'Not found',
    explanation:
      'There is no such route or object, or the caller may not see it: the answer is the same.',
  }),
  methodNotAllowed: defineProblem({
    code: 'method-not-allowed',
    status: 405,
    title: 'The method is not allowed here',
    explanation: 'The "Allow" header names the methods that this resource has.',
  }),
  notAcceptable: defineProblem({
    code: 'not-acceptable',
    status: 406,
    title: 'None of the accepted media types can be given',
    explanation: 'The "Accept" header excludes every media type that this resource has.',
  }),
  requestTimeout: defineProblem({
    code: 'request-timeout',
    status: 408,
    title: 'The request did not arrive in time',
    explanation: 'The headers or the body took too long to arrive.',
  }),
  payloadTooLarge: defineProblem({
    code: 'payload-too-large',
    status: 413,
    title: 'The body is too large',
    explanation: 'A body may have 256 KiB.',
  }),
  uriTooLong: defineProblem({
    code: 'uri-too-long',
    status: 414,
    title: 'A part of the path is too long',
    explanation: 'No parameter of a path in this API needs more than 100 characters.',
  }),
  unsupportedMediaType: defineProblem({
    code: 'unsupported-media-type',
    status: 415,
    title: 'The body must be application/json',
    explanation:
      'Bodies are sent as "Content-Type: application/json", in UTF-8 and without a content coding.',
  }),
  versionMismatch: defineProblem({
    code: 'version-mismatch',
    status: 412,
    title: 'The object has changed',
    explanation:
      'The entity tag in "If-Match" is not the current one. Read the object again, decide again, and send its new ETag.',
  }),
  preconditionRequired: defineProblem({
    code: 'precondition-required',
    status: 428,
    title: 'If-Match is required',
    explanation:
      'A PATCH must say which version it changes: "If-Match" with the ETag of the last read (RFC 6585, section 3).',
  }),
  rateLimited: defineProblem({
    code: 'rate-limited',
    status: 429,
    title: 'Too many requests',
    explanation:
      'The limit in "RateLimit-Policy" is used up; "Retry-After" says in how many seconds it opens again.',
  }),
  internal: defineProblem({
    code: 'internal-error',
    status: 500,
    title: 'Something went wrong here',
    explanation:
      'The fault is the service\'s. Quote "requestId" when you report it; the log has the rest.',
  }),
  overloaded: defineProblem({
    code: 'overloaded',
    status: 503,
    title: 'Too much at once',
    explanation:
      'The service sheds load rather than answer late. Try again after "Retry-After" seconds.',
  }),
  databaseUnavailable: defineProblem({
    code: 'database-unavailable',
    status: 503,
    title: 'The database cannot be reached',
    explanation:
      'Nothing was changed, or the outcome is not known: repeat the request (with the same Idempotency-Key) after "Retry-After" seconds.',
  }),
  cacheUnavailable: defineProblem({
    code: 'cache-unavailable',
    status: 503,
    title: 'The cache cannot be reached',
    explanation:
      'This service is set to refuse writes that it cannot make visible on every node at once. Nothing was changed.',
  }),
} as const;

/** Header set of the refusals that ask the caller to come back. */
export const retryLater = { headers: RETRY_AFTER } as const;
