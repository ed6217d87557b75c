/** The headers of the API: their schemas in the OpenAPI document, and references to them. */

const ENTITY_TAG = '"[0-9]+"';
/** Opaque tags of RFC 9110, section 8.8.3, in ASCII. */
const ANY_ENTITY_TAG = '(W/)?"[!#-~]*"';
const SECONDS = { type: 'integer', format: 'int32', minimum: 0 } as const;
const PATH_TEXT =
  'A relative reference (RFC 9110, section 10.2.2): resolve it against the URL of the request.';

interface DocumentedHeader {
  readonly description: string;
  readonly schema: object;
}

export const RESPONSE_HEADERS = {
  'X-Request-Id': {
    description:
      'The id of this request in the logs: the one you sent if it is valid, else a new one.',
    schema: { type: 'string', minLength: 1, maxLength: 128 },
  },
  RateLimit: {
    description: 'r: requests left. t: seconds until the limit resets.',
    schema: { type: 'string' },
  },
  'RateLimit-Policy': {
    description: 'q: allowed requests. w: window in seconds.',
    schema: { type: 'string' },
  },
  ETag: {
    description: 'The version as a strong entity tag. Send it as If-Match or If-None-Match.',
    schema: { type: 'string', pattern: `^${ENTITY_TAG}$` },
  },
  Location: {
    description: `The new object. ${PATH_TEXT}`,
    schema: { type: 'string', format: 'uri-reference', pattern: '^/v1/' },
  },
  Link: {
    description: `rel="next": the next page (RFC 8288). Absent on the last page. ${PATH_TEXT}`,
    schema: { type: 'string' },
  },
  'Cache-Status': {
    description: 'How the cache answered (RFC 9211): hit, fwd=miss, fwd=request or fwd=bypass.',
    schema: { type: 'string' },
  },
  'Cache-Control': {
    description:
      'private, no-cache: you may store the response, but revalidate it before each use. ' +
      'no-store: it has a token, it is a problem, or its URL has another answer for each caller.',
    schema: { type: 'string' },
  },
  Age: {
    description:
      'The maximum age of the response in seconds (RFC 9111). All older changes are in it.',
    schema: SECONDS,
  },
  Trailer: {
    description:
      'The names of the fields that follow the body (RFC 9110, section 6.6.2). X-Total-Count: ' +
      'the number of lines of a complete body. Absent in responses to HEAD and to HTTP/1.0.',
    schema: { type: 'string', enum: ['x-total-count'] },
  },
  'Idempotent-Replayed': {
    description: 'This is the stored response to an earlier request with the same key.',
    schema: { type: 'string', enum: ['true'] },
  },
  'Retry-After': {
    description: 'Seconds to wait before you try again.',
    schema: { ...SECONDS, minimum: 1 },
  },
  'Set-Cookie': {
    description:
      'Marks the device for 180 days. A later login with it is not delayed by wrong passwords of ' +
      'others. Browsers send it by themselves; to other clients it is optional.',
    schema: { type: 'string' },
  },
  'WWW-Authenticate': {
    description: 'Bearer: how to authenticate (RFC 6750).',
    schema: { type: 'string' },
  },
} as const satisfies Record<string, DocumentedHeader>;

export type ResponseHeader = keyof typeof RESPONSE_HEADERS;

/** Only headers that some route requires have an example: Swagger UI sends examples. */
export const REQUEST_HEADERS = {
  'If-Match': {
    description:
      'The ETag of the version to change, with its quotes: `"1"`. `*` is any version, a list any ' +
      'of its versions. Weak tags never match.',
    schema: {
      type: 'string',
      pattern: `^(\\*|${ANY_ENTITY_TAG}( *, *${ANY_ENTITY_TAG})*)$`,
    },
    example: '"1"',
  },
  'If-None-Match': {
    description: 'The ETag of your copy, for example `"1"`. If it is current, the response is 304.',
    schema: { type: 'string' },
  },
  'Cache-Control': {
    description: '`no-cache`: read from the primary database, not from a cache.',
    schema: { type: 'string' },
  },
  'Idempotency-Key': {
    description:
      '1 to 255 printable ASCII characters. A new key for each new request, the same key for ' +
      'each retry of it. The quoted form of a structured field (RFC 9651) is the same key: `"k"` ' +
      'is `k`. A bare key has no quote and no space at its ends.',
    schema: {
      type: 'string',
      minLength: 1,
      maxLength: 255,
      pattern: '^[!#-~]([ -~]*[!#-~])?$',
    },
    example: '8e03978e-40d5-43e8-bc93-6894a57f9324',
  },
} as const;

export type RequestHeader = keyof typeof REQUEST_HEADERS;

const COMMON_HEADERS: readonly ResponseHeader[] = ['X-Request-Id', 'RateLimit', 'RateLimit-Policy'];
/** Of responses that are not counted by the rate limit, or are sent before it counts. */
export const UNLIMITED_HEADERS: readonly ResponseHeader[] = ['X-Request-Id'];

/** Headers of every response of a route. Probes and metrics are not limited. */
export const headersOfEvery = (allow: string): readonly ResponseHeader[] =>
  allow === 'operator' ? UNLIMITED_HEADERS : COMMON_HEADERS;

/** References to entries of `components`, by name. */
export const refsTo = (
  kind: 'headers' | 'examples',
  names: readonly string[],
): Record<string, { $ref: string }> =>
  Object.fromEntries(names.map((name) => [name, { $ref: `#/components/${kind}/${name}` }]));
