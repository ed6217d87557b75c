/** Texts of the OpenAPI document that belong to no route. */

const TRY_IT = [
  '1. `POST /v1/users` registers you, `POST /v1/sessions` logs you in. ' +
    'Both forms are filled in: press **Execute**.',
  '2. Copy the `token` from the response, press **Authorize** and paste it.',
  '3. `POST /v1/orders` places an order. Read it twice with `GET /v1/orders/{id}`: ' +
    'the header `Cache-Status` says whether the cache answered.',
];

const GOOD_TO_KNOW = [
  '- Every error is `application/problem+json` (RFC 9457) with a stable `code`. ' +
    '[A page](/problems) explains each code.',
  '- Users and orders carry their version as `ETag`. Send it as `If-Match` to change exactly ' +
    'that version, or as `If-None-Match` to get 304 when nothing has changed.',
  '- Money is an integer in the minor unit (cents) of an ISO 4217 currency. ' +
    'Times are RFC 3339 in UTC.',
  '- Requests are closed: unknown properties and parameters are errors. Responses are open: a ' +
    'later release may add properties.',
  '- Text is well-formed Unicode without control characters, U+2028 and U+2029; only notes have ' +
    'tabs and line feeds. Lengths count code points.',
  '- Lists have pages: send `next` as `cursor`, or follow the `Link` header. A page ends early if ' +
    'its results exceed 1 MiB together.',
  '- A caller has at most 250 requests in flight and 8 MiB of responses that it has not read. ' +
    'Past that the response is 503 `overloaded`. Requests of one connection are answered one ' +
    'after the other, at most 100 of them; a client that reads nothing for 30 seconds is ' +
    'disconnected. Refused requests count against the limit, too.',
  '- Every `GET` route answers `HEAD`, every path answers `OPTIONS`.',
];

/** The description of the API, in Markdown. */
export const ABOUT = [
  'Users, sessions and orders behind a REST API. Reads come from a cache and are never stale.',
  '',
  '**Try it here:**',
  ...TRY_IT,
  '',
  '**Good to know:**',
  ...GOOD_TO_KNOW,
].join('\n');

/** Tag → description, in the order of the document. */
export const TAGS = {
  users: 'Register, change and delete users.',
  sessions: 'Log in, list your sessions, log out. All nodes reject an ended session at once.',
  orders: 'Place orders, move them through their statuses, and read their history.',
  health: 'Probes for Kubernetes and load balancers. They need no session and have no rate limit.',
  operations: 'For operators.',
} as const;

/** Descriptions of `{id}`, by the path segment before it. */
export const ID_DESCRIPTIONS: Readonly<Record<string, string>> = {
  users: 'The id of the user.',
  sessions: 'The id of the session.',
  orders: 'The id of the order.',
};
