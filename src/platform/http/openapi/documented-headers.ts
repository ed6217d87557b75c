/** The headers of the API: their descriptions in the OpenAPI document, and references to them. */

export const RESPONSE_HEADERS = {
  'X-Request-Id':
    'The id of this request in the logs: the one you sent if it is valid, else a new one.',
  RateLimit: 'r: requests left. t: seconds until the limit resets.',
  'RateLimit-Policy': 'q: allowed requests. w: window in seconds.',
  ETag: 'The version as a strong entity tag. Send it as If-Match or If-None-Match.',
  Location: 'The path of the new object.',
  Link: 'rel="next": the next page (RFC 8288). Absent on the last page.',
  'Cache-Status': 'How the cache answered (RFC 9211): hit, fwd=miss, fwd=request or fwd=bypass.',
  'Cache-Control':
    'private, no-cache: you may store the response, but revalidate it before each use. no-store: ' +
    'it has a token, or it is a problem.',
  Age: 'The maximum age of the response in seconds (RFC 9111). All older changes are in it.',
  'Idempotent-Replayed':
    '"true": this is the stored response to an earlier request with the same key.',
  'Retry-After': 'Seconds to wait before you try again.',
  'WWW-Authenticate': 'Bearer: how to authenticate (RFC 6750).',
} as const;

export type ResponseHeader = keyof typeof RESPONSE_HEADERS;

/** Only headers that some route requires have an example: Swagger UI sends examples. */
export const REQUEST_HEADERS = {
  'If-Match': {
    description: 'The ETag of the version to change, for example `"1"`.',
    example: '"1"',
  },
  'If-None-Match': {
    description: 'The ETag of your copy, for example `"1"`. If it is current, the response is 304.',
  },
  'Cache-Control': { description: '`no-cache`: read from the primary database, not from a cache.' },
  'Idempotency-Key': {
    description:
      '1 to 255 characters. A new key for each new request, the same key for each retry of it.',
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
