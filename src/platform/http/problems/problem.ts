/**
 * The catalogue of coded problems (RFC 9457). A module declares its own in its `*.errors.ts` with
 * {@link defineProblem} and throws them. Responses, the OpenAPI document and the pages under
 * /problems/<code> are made from these declarations, so they cannot differ.
 */

/** What all occurrences of one problem share. */
export interface ProblemType {
  /** Kebab-case. Part of the API's contract: `type` is /problems/<code>. */
  readonly code: string;
  readonly status: number;
  /** Short, the same for every occurrence. */
  readonly title: string;
  /**
   * What happened and what the client can do. Also the `detail` of occurrences without their own.
   */
  readonly explanation: string;
  /** Members of an occurrence that differ from the standard ones, for the documentation. */
  readonly example?: Readonly<Record<string, unknown>>;
  /** Headers that its occurrences may have beside those of every problem, for the documentation. */
  readonly headers?: readonly string[];
}

export interface ProblemDetails {
  /**
   * Specific to this occurrence: a clause without a full stop. Never SQL, parser text or a stack.
   */
  readonly detail?: string;
  /** Members beside the standard ones, e.g. `errors`, `allowed`. */
  readonly extensions?: Readonly<Record<string, unknown>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
  /** Id of the affected user, when no session says it. For the security log only. */
  readonly account?: string | undefined;
  /** The object exists, but this caller may not see it. For the security log only. */
  readonly isHidden?: boolean;
}

/** Thrown by services and guards. problem.filter.ts turns it into the response. */
export class Problem extends Error {
  constructor(
    readonly problemType: ProblemType,
    readonly details: ProblemDetails = {},
  ) {
    super(details.detail ?? problemType.title, { cause: details.cause });
    this.name = `Problem(${problemType.code})`;
  }
}

/** A declared problem. Calling it creates the error to throw. */
export interface ProblemFactory extends ProblemType {
  (detail?: string, more?: Omit<ProblemDetails, 'detail'>): Problem;
}

const catalogue = new Map<string, ProblemType>();

/** @throws Error when the code is declared twice: a programming error, found at startup */
export function defineProblem(type: ProblemType): ProblemFactory {
  if (catalogue.has(type.code)) throw new Error(`problem ${type.code} is declared twice`);
  catalogue.set(type.code, type);
  const create = (detail?: string, more: Omit<ProblemDetails, 'detail'> = {}): Problem =>
    new Problem(type, detail === undefined ? more : { ...more, detail });
  return Object.assign(create, type);
}

/** Every declared problem, by code. */
export const problemCatalogue: ReadonlyMap<string, ProblemType> = catalogue;

/** For problems that end by themselves, when a part of the service is unavailable or overloaded. */
export const RETRY_LATER = { headers: { 'Retry-After': '1' } } as const;
/** Declares the header of {@link RETRY_LATER}, or of another time. */
export const RETRY_AFTER = ['Retry-After'] as const;

/** Problems of HTTP, and those that any route may have. */
export const problems = {
  malformedJson: defineProblem({
    code: 'malformed-json',
    status: 400,
    title: 'The request body is not valid JSON',
    explanation:
      'Send one JSON value in UTF-8 (RFC 8259), nested at most 32 levels deep, without a name ' +
      'twice in one object, and without a member named "__proto__".',
  }),
  malformedUrl: defineProblem({
    code: 'malformed-url',
    status: 400,
    title: 'The URL is malformed',
    explanation:
      'Percent-encoding in the path or the query is incomplete or is not UTF-8 (RFC 3986, ' +
      'section 2.1).',
  }),
  malformedRequest: defineProblem({
    code: 'malformed-request',
    status: 400,
    title: 'The request is not valid HTTP',
    explanation: 'The request line, a header or the framing of the body violates RFC 9112.',
  }),
  headersTooLarge: defineProblem({
    code: 'headers-too-large',
    status: 431,
    title: 'The request headers are too large',
    explanation: 'The headers of a request exceed 16 KiB together (RFC 6585, section 5).',
  }),
  validationFailed: defineProblem({
    code: 'validation-failed',
    status: 400,
    title: 'The request is invalid',
    explanation:
      'Each entry of "errors" is one mistake: a JSON pointer to a member of the body, or "/" and ' +
      'the name of a parameter; the code of the violated rule; and what to send instead.',
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
    title: 'The database rejected a value',
    explanation:
      'A value passed the validation of this API, but the database does not accept it. Nothing ' +
      'was changed. This is a defect of the service: please report it with the "requestId".',
  }),
  conflict: defineProblem({
    code: 'conflict',
    status: 409,
    title: 'A concurrent request was first',
    explanation:
      'At the same moment, another request deleted what this one refers to or created what it ' +
      'creates. Nothing was changed. Read the current state and decide again.',
  }),
  unauthenticated: defineProblem({
    code: 'unauthenticated',
    status: 401,
    title: 'Authentication is required',
    headers: ['WWW-Authenticate'],
    explanation:
      'Send "Authorization: Bearer <token>" with the token of a live session. POST /v1/sessions ' +
      'creates one.',
  }),
  forbidden: defineProblem({
    code: 'forbidden',
    status: 403,
    title: 'You may not do this',
    explanation: 'You are logged in, but this needs a role that you do not have, or another user.',
  }),
  notFound: defineProblem({
    code: 'not-found',
    status: 404,
    title: 'Not found',
    explanation:
      'The route or object does not exist, or you may not see it. The response is the same in ' +
      'both cases.',
  }),
  methodNotAllowed: defineProblem({
    code: 'method-not-allowed',
    status: 405,
    title: 'The method is not allowed',
    explanation: 'The "Allow" header lists the methods of this resource.',
  }),
  notAcceptable: defineProblem({
    code: 'not-acceptable',
    status: 406,
    title: 'No acceptable media type',
    explanation: 'The "Accept" header excludes every media type that this resource has.',
  }),
  requestTimeout: defineProblem({
    code: 'request-timeout',
    status: 408,
    title: 'The request took too long to arrive',
    explanation: 'The headers must arrive within 10 seconds, the whole request within 30 seconds.',
  }),
  payloadTooLarge: defineProblem({
    code: 'payload-too-large',
    status: 413,
    title: 'The request body is too large',
    explanation: 'The request body exceeds 256 KiB.',
  }),
  uriTooLong: defineProblem({
    code: 'uri-too-long',
    status: 414,
    title: 'The path is too long',
    explanation: 'A path has at most 1000 characters, and a path parameter at most 100.',
  }),
  unsupportedMediaType: defineProblem({
    code: 'unsupported-media-type',
    status: 415,
    title: 'The request body must be application/json',
    explanation:
      'Send the body as "Content-Type: application/json", in UTF-8 and without compression.',
  }),
  versionMismatch: defineProblem({
    code: 'version-mismatch',
    status: 412,
    title: 'The object has changed',
    headers: ['ETag'],
    explanation:
      '"If-Match" does not contain the current entity tag. Read the object again, decide again, ' +
      'and send its new ETag.',
  }),
  ifMatchMalformed: defineProblem({
    code: 'if-match-malformed',
    status: 400,
    title: 'If-Match is malformed',
    explanation:
      'Send "If-Match" as you received the ETag, with its quotes: "1" and not 1. It is "*" or a ' +
      'list of entity tags (RFC 9110, section 13.1.1).',
  }),
  preconditionRequired: defineProblem({
    code: 'precondition-required',
    status: 428,
    title: 'If-Match is required',
    explanation:
      'A PATCH must name the version that it changes. Send "If-Match" with the ETag of your ' +
      'last read (RFC 6585, section 3).',
  }),
  rateLimited: defineProblem({
    code: 'rate-limited',
    status: 429,
    title: 'Too many requests',
    headers: RETRY_AFTER,
    explanation:
      'The limit in "RateLimit-Policy" is used up. Try again after "Retry-After" seconds.',
  }),
  internal: defineProblem({
    code: 'internal-error',
    status: 500,
    title: 'Internal error',
    explanation:
      'The service failed. Please report it with the "requestId", under which the cause is logged.',
  }),
  notImplemented: defineProblem({
    code: 'not-implemented',
    status: 501,
    title: 'The server does not support this',
    explanation:
      'The server supports neither this method nor this transfer coding: send the body as it is, ' +
      'with "Content-Length" or "Transfer-Encoding: chunked" (RFC 9112, section 6.1).',
  }),
  overloaded: defineProblem({
    code: 'overloaded',
    status: 503,
    title: 'The service is overloaded',
    headers: RETRY_AFTER,
    explanation:
      'The service rejects requests that it cannot answer in time. Try again after ' +
      '"Retry-After" seconds.',
  }),
  databaseUnavailable: defineProblem({
    code: 'database-unavailable',
    status: 503,
    title: 'The database is unavailable',
    headers: RETRY_AFTER,
    explanation:
      'Nothing was changed, or the outcome is unknown. Send the request again after ' +
      '"Retry-After" seconds, with the same Idempotency-Key if it had one.',
  }),
  cacheUnavailable: defineProblem({
    code: 'cache-unavailable',
    status: 503,
    title: 'The cache is unavailable',
    headers: RETRY_AFTER,
    explanation:
      'This service is configured to reject writes that it cannot make visible on every node at ' +
      'once. Nothing was changed. Try again after "Retry-After" seconds.',
  }),
} as const;
