/**
 * The kinds of requests: valid ones, and valid ones with one defect. A kind changes a draft, and
 * says what the answer must be.
 */
import fc, { type Arbitrary } from 'fast-check';
import type { DocumentedApi, Operation } from '../../support/documented-api.js';
import { hasBody, headerOf, isOfApi, isSecured, type Prepared, queryOf } from './requests.js';
import { type BodyFault, bodyFaults } from './values.js';
import type { World } from './world.js';

export interface Verdict {
  /** `rejected`: a 4xx. `accepted`: no 4xx that calls the request invalid. */
  readonly expects: 'accepted' | 'rejected' | 'any';
  /** The answer has one of these, if present. */
  readonly statuses?: readonly number[];
  /** The answer may be a problem that the operation does not list. */
  readonly isStrange?: boolean;
  /** The request has the token of a live session, or needs none. */
  readonly isAuthentic?: boolean;
}

type Edit = (prepared: Prepared, world: World) => Verdict;

export interface Kind {
  readonly name: string;
  readonly appliesTo: (operation: Operation) => boolean;
  readonly edits: (operation: Operation, api: DocumentedApi) => Arbitrary<Edit>;
  /** Requests of this kind in one round, for each operation; 1 when absent. */
  readonly weight?: number;
  /** Requests of the first round, if more. */
  readonly minRuns?: number;
}

const ACCEPTED: Verdict = { expects: 'accepted' };
const REJECTED: Verdict = { expects: 'rejected' };
const STRANGE: Verdict = { expects: 'any', isStrange: true };
const STRANGE_AND_REJECTED: Verdict = { expects: 'rejected', isStrange: true };
const only = (...statuses: number[]): Verdict => ({ expects: 'rejected', statuses });

const always = (): boolean => true;
const isRead = ({ method }: Operation): boolean => method === 'GET';
const hasId = ({ path }: Operation): boolean => path.includes('{id}');

/** One of the values; `edit` puts it into the draft. */
const oneOf = <T>(
  values: readonly T[],
  edit: (prepared: Prepared, value: T, world: World) => Verdict,
): Arbitrary<Edit> =>
  fc.constantFrom(...values).map(
    (value): Edit =>
      (prepared, world) =>
        edit(prepared, value, world),
  );

const fixed = (edit: Edit): Arbitrary<Edit> => fc.constant(edit);

/** Header fields that change nothing. */
const HARMLESS: readonly Readonly<Record<string, string | string[]>>[] = [
  { Accept: 'application/json;q=0.1, text/html' },
  { Accept: 'application/*; charset=utf-8' },
  { Accept: '*/*;q=0.001' },
  { Accept: 'application/problem+json' },
  { Accept: '' },
  { 'Accept-Encoding': 'identity;q=0, *;q=0' },
  { 'Accept-Encoding': 'zstd' },
  { 'Accept-Language': 'tlh, *;q=0' },
  { 'Accept-Charset': 'utf-16' },
  { 'Cache-Control': 'max-age=0, only-if-cached, no-cache="x"' },
  { Cookie: 'a=b; c' },
  { Expect: '200-maybe' },
  { Forwarded: 'for="_mystery"' },
  { 'If-Modified-Since': 'yesterday' },
  { 'If-None-Match': 'no tag at all' },
  { 'If-None-Match': 'W/"0", "x", ""' },
  { 'If-Unmodified-Since': 'Sat, 29 Oct 1994 19:43:31 GMT' },
  { Origin: 'https://evil.example' },
  { Prefer: 'return=minimal' },
  { Range: 'bytes=0-1' },
  { TE: 'trailers' },
  { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' },
  { traceparent: '00-zz-' },
  { 'User-Agent': 'caf\u00e9\u00ff'.repeat(200) },
  { 'X-Forwarded-For': 'unknown, 10.1.1.1:80, [::1%eth0]' },
  { 'X-Forwarded-Host': 'evil.example' },
  { 'X-Forwarded-Proto': 'javascript' },
  { 'X-HTTP-Method-Override': 'DELETE' },
  { 'X-Request-Id': 'a'.repeat(128) },
  { 'X-Request-Id': 'not an id \u00e9' },
  { 'X-Request-Id': ['one', 'two'] },
];

const UNACCEPTABLE = [
  'text/html',
  'application/json;q=0, application/problem+json;q=0',
  'image/*;q=1',
  'application/xml, text/*;q=0.5',
];

const AUTHORIZATIONS: readonly (string | string[] | undefined)[] = [
  undefined,
  '',
  'Bearer',
  'Bearer ',
  'Bearer null',
  'Bearer hf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA',
  'Basic cm9vdDpyb290',
  'Bearer \u00e9\u00ff',
  `Bearer ${'a'.repeat(8_000)}`,
];

const QUERIES_UNKNOWN = [
  'x=1',
  'limit[]=1',
  '__proto__=1',
  'constructor=1',
  'Limit=1',
  'a.b=c',
  '=1',
];
const QUERIES_BROKEN = ['limit=%', 'limit=%zz', 'x=%ff', 'cursor=%c0%af', '%e2%28=1', 'x=%u0041'];

/** Values that a query parameter may not have, by type or format. */
const WRONG_VALUES: Readonly<Record<string, readonly string[]>> = {
  integer: ['0', '101', '-1', '+1', '1.0', '1e1', '0x1', '', 'abc', '9'.repeat(30), '\u0663', ' 1'],
  'date-time': ['', 'yesterday', '2026-02-30T00:00:00Z', '2026-01-31', '0000-01-01T00:00:00Z'],
  date: ['', '2026-02-30', '2026-1-1', '10000-01-01', '0000-01-01', '2026-01-31T00:00:00Z'],
  uuid: ['', 'x', '0198c5a2-7d1e-7c3a-9f00', '{0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a}', '\u0000'],
  array: ['', ',', 'x', '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a,'],
  word: ['', 'nope', 'PLACED', 'placed,paid', '\u0000'],
  cursor: ['', 'x', 'bnVsbA', 'WzFd', 'W10', 'e30', '\u0000', 'x'.repeat(201), '\u{1f600}'],
};

/** Text of cursors that are not ones, in their encoding. */
const CURSOR_TEXTS = [
  ...['null', 'true', '7', '{}', '{"0":1}', '[', '[]', '"\u0000"', '["0","x"]', '[-1,"x"]'],
  '[1e400,"0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a","x"]',
  '[9007199254740991,"0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a","x"]',
  '[0,"0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a",null]',
];
/** First members of a cursor that no page has, among them the ends of calendars and of integers. */
const CURSOR_POSITIONS = [
  ...[253_402_300_800_000, -62_135_596_800_001, 8_640_000_000_000_001, 2_147_483_648],
  ...[999_999_999_999_999, -1, 0.5],
];

const IDS_WRONG = [
  ...[
    'x',
    '%00',
    '%E0%A4%A',
    '%ff',
    '..',
    '%2e%2e',
    '.',
    'a%2fb',
    'a%5cb',
    '%20',
    '*',
    '$ref',
    '-1',
  ],
  ...['null', 'NaN', '%F0%9F%98%80', 'a;b=c', "'%20OR%201=1--", '0198c5a2-7d1e-7c3a-9f00'],
  ...['x'.repeat(100), 'x'.repeat(101), 'x'.repeat(201), 'x'.repeat(1_200), '%C3%A9'.repeat(40)],
];

const PATH_CHANGES: readonly ((path: string) => string)[] = [
  (path) => `${path}/`,
  (path) => `/${path}`,
  (path) => `${path}/x`,
  (path) => `${path}//`,
  (path) => `/.${path}`,
  (path) => `/x/..${path}`,
  (path) => path.toUpperCase(),
  (path) => `${path};v=1`,
  (path) => `${path}%00`,
  (path) => `${path}%`,
  (path) => `${path}.json`,
  (path) => `http://evil.example${path}x`,
];

const IF_MATCH_WRONG = ['1', '', '"1', '1"', '"1" "2"', '"1",,x', "'1'", 'W/1', '"a\u0000'];
const IF_MATCH_STALE = ['"0"', 'W/"1"', '"x", "y"', '""', '"999999999999999999999"'];
const KEYS_WRONG = [
  '',
  '"',
  '"a',
  'a"',
  '\u00e9',
  'x'.repeat(256),
  `"${'x'.repeat(256)}"`,
  '"\\x"',
];

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND', 'TRACE'];

type TextChange = (json: string) => Buffer;

const bytes = (text: string): Buffer => Buffer.from(text);

/** Bodies that are not JSON, or not the JSON that all readers read alike. */
const WRONG_TEXTS: Readonly<Record<string, TextChange>> = {
  truncated: (json) => bytes(json.slice(0, -1)),
  'with a tail': (json) => bytes(`${json}x`),
  'with a trailing comma': (json) => bytes(json.replace(/}$/, ',}')),
  'with a name twice': (json) => bytes(json.replace(/^{/, '{"a":1,"\\u0061":2,')),
  'with its first member twice': (json) =>
    bytes(json === '{}' ? '[]' : json.replace(/^{("[^"]*":)/, '{$1null,$1')),
  'with __proto__': (json) => bytes(json.replace(/^{/, '{"__proto__":{"roles":["admin"]},')),
  'with a huge number': (json) => bytes(json.replace(/^{/, '{"a":1e400,')),
  'nested deeply': () => bytes(`${'['.repeat(5_000)}${']'.repeat(5_000)}`),
  'nested too deeply': (json) =>
    bytes(json.replace(/^{/, `{"a":${'{"a":'.repeat(40)}1${'}'.repeat(41)},`)),
  'with NaN': () => bytes('{"a":NaN}'),
  'with comments': (json) => bytes(`/**/${json}`),
  'with single quotes': () => bytes("{'a':1}"),
  'as a list': (json) => bytes(`[${json}]`),
  'as null': () => bytes('null'),
  'as text': (json) => bytes(JSON.stringify(json)),
  'as a number': () => bytes('-0'),
  'in UTF-16': (json) => Buffer.from(json, 'utf16le'),
  'with a byte that is not UTF-8': (json) =>
    Buffer.concat([bytes(json.slice(0, -1)), Buffer.of(0xff)]),
  'with an overlong NUL': (json) => Buffer.concat([bytes(json), Buffer.of(0xc0, 0x80)]),
  'of a form': () => bytes('a=b&c=d'),
  'of XML': () => bytes('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'),
};

const MEDIA_TYPES: readonly (string | undefined)[] = [
  undefined,
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/json-patch+json',
  'application/jsonx',
  'text/json',
  'application/json; charset=latin1',
  'application/json; charset=utf-16',
  '*/*',
];
const MAX_BODY_BYTES = 256 * 1024;

export const VALID: Kind = {
  name: 'valid',
  appliesTo: always,
  weight: 6,
  edits: () => fixed(() => ACCEPTED),
};

export const KINDS: readonly Kind[] = [
  VALID,
  {
    name: 'valid, with harmless headers',
    appliesTo: always,
    weight: 2,
    edits: (operation) =>
      oneOf(harmlessFor(operation), ({ draft }, headers) => {
        Object.assign(draft.headers, headers);
        // The probes and the metrics do not negotiate, the API does.
        return isOfApi(operation) ? ACCEPTED : { ...ACCEPTED, isStrange: true };
      }),
  },
  {
    name: 'HEAD',
    appliesTo: isRead,
    edits: () =>
      fixed(({ draft }) => {
        draft.method = 'HEAD';
        return ACCEPTED;
      }),
  },
  {
    name: 'unacceptable Accept',
    appliesTo: isOfApi,
    edits: () =>
      oneOf(UNACCEPTABLE, ({ draft }, accept) => {
        draft.headers.Accept = accept;
        return only(406);
      }),
  },
  {
    name: 'no live session',
    appliesTo: isSecured,
    weight: 2,
    edits: () =>
      fc.nat().map((choice): Edit => ({ draft }, { endedTokens }) => {
        const ended = endedTokens.map((token) => `Bearer ${token}`);
        const all = [...AUTHORIZATIONS, ...ended];
        const authorization = all[choice % all.length];
        delete draft.headers.Authorization;
        if (authorization !== undefined) draft.headers.Authorization = authorization;
        return { expects: 'rejected', statuses: [401], isAuthentic: false };
      }),
  },
  {
    name: 'two tokens',
    appliesTo: isSecured,
    edits: () =>
      fixed(({ draft }) => {
        const { Authorization } = draft.headers;
        draft.headers.Authorization = [Authorization as string, 'Bearer x'];
        return { expects: 'rejected', statuses: [401], isAuthentic: false };
      }),
  },
  {
    name: 'unknown parameter',
    appliesTo: isOfApi,
    edits: () =>
      oneOf(QUERIES_UNKNOWN, ({ draft }, pair) => {
        draft.query.push(pair);
        return REJECTED;
      }),
  },
  {
    name: 'broken percent-encoding',
    appliesTo: always,
    edits: () =>
      oneOf(QUERIES_BROKEN, ({ draft }, pair) => {
        draft.query.push(pair);
        return { ...only(400), isStrange: true };
      }),
  },
  {
    name: 'wrong parameter',
    appliesTo: (operation) => queryOf(operation).length > 0,
    weight: 4,
    edits: (operation, api) => {
      const pairs = queryOf(operation).flatMap(({ name, schema }) => {
        const { type, format, enum: words } = api.resolveSchema(schema);
        const typeName = words ? 'word' : String(type);
        const form = name === 'cursor' ? name : (format ?? typeName);
        const values = WRONG_VALUES[type === 'integer' ? 'integer' : form] ?? ['\u0000'];
        return values.map((value) => [name, value] as const);
      });
      return oneOf(pairs, ({ draft }, [name, value]) => {
        replaceParameter(draft.query, name, encodeURIComponent(value));
        return REJECTED;
      });
    },
  },
  {
    name: 'parameter twice',
    appliesTo: (operation) => queryOf(operation).length > 0,
    edits: (operation) => {
      const names = queryOf(operation).map(({ name }) => name);
      return oneOf(
        names.filter((name) => name !== 'ids'),
        ({ draft }, name) => {
          draft.query.push(`${name}=1`, `${name}=1`);
          return REJECTED;
        },
      );
    },
  },
  {
    name: 'edited cursor',
    appliesTo: (operation) => queryOf(operation).some(({ name }) => name === 'cursor'),
    weight: 3,
    minRuns: 12,
    edits: (operation) =>
      fc
        .record({ text: fc.constantFrom(...CURSOR_TEXTS), choice: fc.nat() })
        .map(({ text, choice }): Edit => ({ draft }, world) => {
          const made = Buffer.from(text).toString('base64url');
          const known = world.cursors.get(operation.operationId)?.value ?? made;
          const values = [made, made, flipCharacter(known, choice), moveCursor(known, choice)];
          replaceParameter(draft.query, 'cursor', values[choice % values.length] as string);
          // A moved cursor may be one of the list: it names a position, not a row.
          return choice % values.length === 3 ? { expects: 'any' } : REJECTED;
        }),
  },
  {
    name: 'wrong id',
    appliesTo: hasId,
    weight: 2,
    edits: () =>
      oneOf(IDS_WRONG, (prepared, id) => {
        const { draft, objectId = '' } = prepared;
        draft.path = draft.path.replace(objectId, id);
        return STRANGE_AND_REJECTED;
      }),
  },
  {
    name: 'wrong path',
    appliesTo: always,
    edits: () =>
      oneOf(PATH_CHANGES, ({ draft }, change) => {
        draft.path = change(draft.path);
        return STRANGE_AND_REJECTED;
      }),
  },
  {
    name: 'missing header',
    appliesTo: ({ parameters }) => parameters.some(isRequiredHeader),
    edits: ({ parameters }) =>
      oneOf(parameters.filter(isRequiredHeader), ({ draft }, { name }) => {
        delete draft.headers[name];
        return REJECTED;
      }),
  },
  {
    name: 'malformed If-Match',
    appliesTo: (operation) => headerOf(operation, 'If-Match') !== undefined,
    edits: () =>
      oneOf(
        IF_MATCH_WRONG.filter((value) => !value.includes('\u0000')),
        ({ draft }, value) => {
          draft.headers['If-Match'] = value;
          return REJECTED;
        },
      ),
  },
  {
    name: 'stale If-Match',
    appliesTo: (operation) => headerOf(operation, 'If-Match') !== undefined,
    edits: () =>
      oneOf(IF_MATCH_STALE, ({ draft }, value) => {
        draft.headers['If-Match'] = value;
        return REJECTED;
      }),
  },
  {
    name: 'malformed Idempotency-Key',
    appliesTo: (operation) => headerOf(operation, 'Idempotency-Key') !== undefined,
    edits: () =>
      oneOf<string | string[]>([...KEYS_WRONG, ['a', 'b']], ({ draft }, key) => {
        draft.headers['Idempotency-Key'] = key;
        return REJECTED;
      }),
  },
  {
    name: 'method that the path lacks',
    appliesTo: always,
    weight: 2,
    edits: ({ path }, api) => {
      const own = api.operations.filter((other) => other.path === path);
      const known = new Set(own.map(({ method }) => method));
      const missing = METHODS.filter((method) => !known.has(method));
      return oneOf(missing, ({ draft }, method) => {
        draft.method = method;
        return { expects: 'rejected', statuses: [405], isStrange: true };
      });
    },
  },
  {
    name: 'OPTIONS',
    appliesTo: always,
    edits: () =>
      fixed(({ draft }) => {
        draft.method = 'OPTIONS';
        delete draft.headers['Content-Type'];
        draft.body = undefined;
        return { expects: 'any', statuses: [204] };
      }),
  },
  {
    name: 'body against the schema',
    appliesTo: hasBody,
    weight: 8,
    edits: (operation, api) => {
      const schema = operation.requestBody?.content['application/json']?.schema ?? {};
      return oneOf<BodyFault>(bodyFaults(api, schema), ({ draft, json }, fault) => {
        const changed = fault.apply(json);
        if (changed === undefined) return ACCEPTED;
        draft.body = bytes(JSON.stringify(changed));
        return REJECTED;
      });
    },
  },
  {
    name: 'body that is not JSON',
    appliesTo: hasBody,
    weight: 4,
    edits: () =>
      oneOf(Object.values(WRONG_TEXTS), ({ draft, json }, change) => {
        draft.body = change(JSON.stringify(json));
        return REJECTED;
      }),
  },
  {
    name: 'wrong media type',
    appliesTo: hasBody,
    edits: () =>
      oneOf(MEDIA_TYPES, ({ draft }, type) => {
        delete draft.headers['Content-Type'];
        if (type !== undefined) draft.headers['Content-Type'] = type;
        return only(415);
      }),
  },
  {
    name: 'compressed body',
    appliesTo: hasBody,
    edits: () =>
      oneOf(['gzip', 'br', 'deflate, gzip', 'x'], ({ draft }, coding) => {
        draft.headers['Content-Encoding'] = coding;
        return only(415);
      }),
  },
  {
    name: 'empty body',
    appliesTo: (operation) => operation.requestBody?.required === true,
    edits: () =>
      fixed(({ draft }) => {
        draft.body = Buffer.alloc(0);
        return REJECTED;
      }),
  },
  {
    name: 'enormous body',
    appliesTo: hasBody,
    edits: () =>
      oneOf([1, 1_000], ({ draft }, excess) => {
        draft.body = Buffer.alloc(MAX_BODY_BYTES + excess, ' ');
        return only(413);
      }),
  },
  {
    name: 'body that nobody reads',
    appliesTo: (operation) => !hasBody(operation),
    edits: () =>
      oneOf(Object.values(WRONG_TEXTS), ({ draft }, change) => {
        draft.body = change('{"a":1}');
        draft.headers['Content-Type'] = 'application/json';
        return STRANGE;
      }),
  },
  {
    name: 'enormous headers',
    appliesTo: always,
    edits: () =>
      oneOf([17_000, 40_000], ({ draft }, length) => {
        draft.headers['X-Filler'] = 'x'.repeat(length);
        return { ...only(431), isStrange: true };
      }),
  },
];

/** The media ranges above are for JSON. */
function harmlessFor({ responses }: Operation): typeof HARMLESS {
  const isJson = Object.keys(responses['200']?.content ?? {}).every((type) =>
    type.endsWith('/json'),
  );
  return isJson ? HARMLESS : HARMLESS.filter((headers) => !('Accept' in headers));
}

const isRequiredHeader = ({ in: place, required }: Operation['parameters'][number]): boolean =>
  place === 'header' && required === true;

function replaceParameter(query: string[], name: string, value: string): void {
  const others = query.filter((pair) => !pair.startsWith(`${name}=`));
  query.splice(0, query.length, ...others, `${name}=${value}`);
}

/** The text with one other character. */
function flipCharacter(text: string, choice: number): string {
  const index = choice % text.length;
  const replacement = text[index] === 'A' ? 'B' : 'A';
  return text.slice(0, index) + replacement + text.slice(index + 1);
}

/** The cursor at another position, with what binds it to its list. */
function moveCursor(cursor: string, choice: number): string {
  const text = Buffer.from(cursor, 'base64url').toString();
  const position = CURSOR_POSITIONS[choice % CURSOR_POSITIONS.length];
  const moved = text.replace(/^\[[^,]*/, `[${position}`);
  return Buffer.from(moved).toString('base64url');
}
