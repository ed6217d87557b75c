/**
 * What a route says about itself: `@Operation` carries who may call it, what it answers with and the problems that it can
 * refuse with, out of the one catalogue. openapi-document.ts makes the OpenAPI 3.1 document of it.
 */
import { applyDecorators, SetMetadata, type Type } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiExtension,
  ApiExtraModels,
  ApiHeader,
  ApiOperation,
  ApiProperty,
  ApiPropertyOptional,
  ApiResponse,
  ApiSchema,
  getSchemaPath,
} from '@nestjs/swagger';
import { ALLOW } from './actor.js';
import { type ProblemType, problems } from './problem.js';

/** The body of every refusal. */
@ApiSchema({ name: 'Problem', description: 'Why a request was refused (RFC 9457).' })
export class ProblemShape {
  @ApiProperty({
    type: String,
    format: 'uri-reference',
    description: 'A page that explains the problem.',
  })
  type: string;
  @ApiProperty({ type: String, description: 'The same for every occurrence of the problem.' })
  title: string;
  @ApiProperty({ type: 'integer', minimum: 400, maximum: 599 })
  status: number;
  @ApiProperty({ type: String, description: 'What is particular to this occurrence.' })
  detail: string;
  @ApiProperty({
    type: String,
    format: 'uri-reference',
    description: 'The path that was asked for.',
  })
  instance: string;
  @ApiProperty({ type: String, description: 'The stable name of the problem: decide by this one.' })
  code: string;
  @ApiProperty({ type: String, description: 'The same as the X-Request-Id header.' })
  requestId: string;
  @ApiProperty({
    type: 'array',
    required: false,
    description: 'With validation-failed: every fault.',
    items: {
      type: 'object',
      required: ['pointer', 'code', 'detail'],
      properties: {
        pointer: {
          type: 'string',
          description: 'To the member of the body (RFC 6901), or the name of a parameter.',
        },
        code: { type: 'string', description: 'The stable name of the rule.' },
        detail: { type: 'string' },
      },
    },
  })
  errors?: object[];
  @ApiProperty({
    type: String,
    isArray: true,
    required: false,
    description: 'With invalid-transition: what this caller may do now.',
  })
  allowed?: string[];
  @ApiPropertyOptional({
    type: 'object',
    additionalProperties: { type: 'object', additionalProperties: true },
    description: 'With not-ready: each part and how it is.',
  })
  checks?: object;
}

export const RESPONSE_HEADERS = {
  'X-Request-Id': 'The id of this request in the logs: the one that was sent, or a new one.',
  RateLimit: 'What is left of the limit, and the seconds until it is whole again.',
  'RateLimit-Policy': 'The limit and its window in seconds.',
  ETag: 'The version as a strong entity tag: send it as If-Match or If-None-Match.',
  Location: 'Where the new object is.',
  Link: 'rel="next": the next page (RFC 8288).',
  'Cache-Status': 'How the cache answered (RFC 9211): hit, fwd=miss, fwd=request or fwd=bypass.',
  'Cache-Control':
    'private, no-cache: keep it, but ask again before each use. no-store: what holds a token or is a refusal.',
  Age: 'How many seconds old the answer may be (RFC 9111): nothing older is missing from it.',
  'Idempotent-Replayed':
    '"true" when this is the kept answer of an earlier request with the same key.',
  'Retry-After': 'Seconds after which to try again.',
  'WWW-Authenticate': 'Bearer: how to authenticate (RFC 6750).',
} as const;

type ResponseHeader = keyof typeof RESPONSE_HEADERS;

/** Swagger UI fills in what has an example: only what must be sent has one. */
const REQUEST_HEADERS = {
  'If-Match': {
    description: 'The ETag of the version to change, for example `"1"`.',
    example: '"1"',
  },
  'If-None-Match': {
    description: 'The ETag of a copy at hand, for example `"1"`: 304 when it is still right.',
  },
  'Cache-Control': { description: '`no-cache`: read the primary database, past every cache.' },
  'Idempotency-Key': {
    description:
      '1 to 255 characters, new for each request that is meant anew, the same for each retry of it.',
    example: '8e03978e-40d5-43e8-bc93-6894a57f9324',
  },
} as const;

type RequestHeader = keyof typeof REQUEST_HEADERS;

/** What one of several paths of a handler says in place of what the handler says. */
export interface Variant {
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
}

/** Notes of `@Operation` to openapi-document.ts, which takes them out. */
export const NOTES = { allow: 'x-allow', variants: 'x-variants' } as const;

export interface OperationOptions {
  /** The row of the policy table (auth/policy.ts) that decides who may call; `anyone` and `operator` need no session. */
  readonly allow: string;
  readonly summary: string;
  readonly description?: string;
  /** By the last part of the path, for a handler with several. */
  readonly variants?: Readonly<Record<string, Variant>>;
  /** 200 when absent. */
  readonly status?: number;
  readonly type?: Type;
  /** What the answer is, in a few words. */
  readonly returns?: string;
  /** Of the answer, when it is no JSON. */
  readonly produces?: string;
  readonly headers?: readonly ResponseHeader[];
  /** Request headers; a `!` behind a name makes it required. */
  readonly accepts?: readonly (RequestHeader | `${RequestHeader}!`)[];
  /** Beside those that every route has. */
  readonly problems?: readonly ProblemType[];
  /** Whether the request has a body. */
  readonly body?: boolean;
}

const COMMON_HEADERS: readonly ResponseHeader[] = ['X-Request-Id', 'RateLimit', 'RateLimit-Policy'];
/** On what is answered before a request is counted, or without counting it. */
export const UNLIMITED_HEADERS: readonly ResponseHeader[] = ['X-Request-Id'];

const refsTo = (
  kind: 'headers' | 'examples',
  names: readonly string[],
): Record<string, { $ref: string }> =>
  Object.fromEntries(names.map((name) => [name, { $ref: `#/components/${kind}/${name}` }]));

/** What a refusal says in its headers, beside what every answer says. */
const PROBLEM_HEADERS: Readonly<Record<number, readonly ResponseHeader[]>> = {
  401: ['WWW-Authenticate'],
  409: ['Retry-After'],
  412: ['ETag'],
  429: ['Retry-After'],
  503: ['Retry-After'],
};

/** A refusal with one of these problems, all of one status. */
export const refusalOf = (types: readonly ProblemType[], common: readonly ResponseHeader[]) => {
  const status = types[0]?.status ?? 500;
  return {
    description: types.map(({ code, title }) => `\`${code}\`: ${title}.`).join('\n\n'),
    headers: refsTo('headers', [...common, 'Cache-Control', ...(PROBLEM_HEADERS[status] ?? [])]),
    content: {
      'application/problem+json': {
        schema: { $ref: getSchemaPath(ProblemShape) },
        examples: refsTo(
          'examples',
          types.map(({ code }) => code),
        ),
      },
    },
  };
};

/** The problems that a route can answer with, whatever it does. */
function problemsOf({
  allow,
  body,
  status,
  problems: own = [],
}: OperationOptions): Set<ProblemType> {
  if (allow === 'operator') return new Set([problems.malformedUrl, ...own, problems.internal]);
  return new Set<ProblemType>([
    problems.malformedUrl,
    ...(allow === 'anyone' ? [] : [problems.unauthenticated]),
    problems.notAcceptable,
    ...(body
      ? [problems.malformedJson, problems.payloadTooLarge, problems.unsupportedMediaType]
      : []),
    problems.validationFailed,
    ...own,
    problems.rateLimited,
    problems.internal,
    problems.overloaded,
    problems.databaseUnavailable,
    ...(body || status === 204 ? [problems.cacheUnavailable] : []),
  ]);
}

/** Everything that is said about a route beside its path and parameters: who may call it, what it answers, what it refuses. */
export function Operation(options: OperationOptions): MethodDecorator {
  const {
    allow,
    summary,
    description = summary,
    status = 200,
    type,
    produces,
    headers = [],
    accepts = [],
  } = options;
  const anonymous = allow === 'anyone' || allow === 'operator';
  const common = allow === 'operator' ? UNLIMITED_HEADERS : COMMON_HEADERS;
  const byStatus = new Map<number, ProblemType[]>();
  for (const problem of problemsOf(options))
    byStatus.set(problem.status, [...(byStatus.get(problem.status) ?? []), problem]);
  const success = produces
    ? {
        content: {
          [produces]: { schema: type ? { $ref: getSchemaPath(type) } : { type: 'string' } },
        },
      }
    : type
      ? { type }
      : {};
  const notModified = accepts.includes('If-None-Match')
    ? [
        ApiResponse({
          status: 304,
          description: 'The copy at hand is still right.',
          headers: refsTo('headers', [...common, 'ETag', 'Cache-Control', 'Cache-Status']),
        } as Parameters<typeof ApiResponse>[0]),
      ]
    : [];
  return applyDecorators(
    SetMetadata(ALLOW, allow),
    ApiOperation({ summary, description }),
    ApiExtension(NOTES.allow, allow),
    ...(options.variants ? [ApiExtension(NOTES.variants, options.variants)] : []),
    ApiResponse({
      status,
      description: options.returns ?? (status === 204 ? 'Done.' : 'The answer.'),
      headers: refsTo('headers', [...common, ...headers]),
      ...success,
    } as Parameters<typeof ApiResponse>[0]),
    ...(type ? [ApiExtraModels(type)] : []),
    ...notModified,
    ...accepts.map((name) => {
      const bare = name.replace('!', '') as RequestHeader;
      const required = name.endsWith('!');
      const { description: about, ...prefilled } = REQUEST_HEADERS[bare];
      const schema = { type: 'string', ...(required ? prefilled : {}) };
      return ApiHeader({ name: bare, description: about, required, schema: schema as object });
    }),
    ...[...byStatus].map(([code, types]) =>
      ApiResponse({ status: code, ...refusalOf(types, common) } as Parameters<
        typeof ApiResponse
      >[0]),
    ),
    ...(anonymous ? [] : [ApiBearerAuth()]),
  );
}
