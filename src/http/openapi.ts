/**
 * The OpenAPI 3.1 document, made from what the code enforces: DTO fields carry their rules, `@Operation` carries who may call
 * a route and the problems that it can answer with, out of the one catalogue. docs/openapi.json is held equal to it by a test.
 */
import { applyDecorators, type INestApplication, SetMetadata, type Type } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiExtraModels,
  ApiHeader,
  ApiOperation,
  ApiProperty,
  ApiResponse,
  DocumentBuilder,
  getSchemaPath,
  type OpenAPIObject,
  SwaggerModule,
} from '@nestjs/swagger';
import { ALLOW } from './actor.js';
import { type ProblemType, problems } from './problem.js';

/** The body of every refusal. */
export class ProblemShape {
  @ApiProperty({ type: String, format: 'uri-reference', description: 'A page that explains the problem.' })
  type: string;
  @ApiProperty({ type: String })
  title: string;
  @ApiProperty({ type: 'integer' })
  status: number;
  @ApiProperty({ type: String })
  detail: string;
  @ApiProperty({ type: String, format: 'uri-reference', description: 'The path that was asked for.' })
  instance: string;
  @ApiProperty({ type: String, description: 'The stable name of the problem.' })
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
      properties: { pointer: { type: 'string' }, code: { type: 'string' }, detail: { type: 'string' } },
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
}

const RESPONSE_HEADERS = {
  ETag: 'The version as a strong entity tag: send it as If-Match or If-None-Match.',
  Location: 'Where the new object is.',
  Link: 'rel="next": the next page (RFC 8288).',
  'Cache-Status': 'How the cache answered (RFC 9211): hit, fwd=miss, fwd=request or fwd=bypass.',
  'Cache-Control': 'private, no-cache: keep it, but ask again before each use. With a token: no-store.',
  'Idempotent-Replayed': '"true" when this is the kept answer of an earlier request with the same key.',
} as const;

const COMMON_HEADERS = {
  'X-Request-Id': 'The id of this request in the logs.',
  RateLimit: 'What is left of the limit, and the seconds until it is whole again.',
  'RateLimit-Policy': 'The limit and its window in seconds.',
} as const;

const REQUEST_HEADERS = {
  'If-Match': { description: 'The ETag of the version to change.', example: '"1"' },
  'If-None-Match': { description: 'The ETag of a copy at hand: 304 when it is still right.', example: '"0"' },
  'Cache-Control': { description: '"no-cache": read the primary database.', example: 'no-cache' },
  'Idempotency-Key': {
    description: '1 to 255 characters, the same for each retry of one request.',
    example: '8e03978e-40d5-43e8-bc93-6894a57f9324',
  },
} as const;

type RequestHeader = keyof typeof REQUEST_HEADERS;
type ResponseHeader = keyof typeof RESPONSE_HEADERS;

export interface OperationOptions {
  /** The row of the policy table (auth/policy.ts) that decides who may call; `anyone` and `operator` need no session. */
  readonly allow: string;
  readonly summary: string;
  readonly description?: string;
  /** 200 when absent. */
  readonly status?: number;
  readonly type?: Type;
  readonly isArray?: boolean;
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

const headersOf = (table: Readonly<Record<string, string>>, names = Object.keys(table)): Record<string, object> =>
  Object.fromEntries(names.map((name) => [name, { description: table[name], schema: { type: 'string' } }]));

const problemResponse = (status: number, types: readonly ProblemType[]): MethodDecorator =>
  ApiResponse({
    status,
    description: types.map(({ title }) => title).join('; '),
    headers: headersOf(COMMON_HEADERS),
    content: {
      'application/problem+json': {
        schema: { $ref: getSchemaPath(ProblemShape) },
        examples: Object.fromEntries(
          types.map(({ code, title, explanation }) => [
            code,
            {
              value: {
                type: `/problems/${code}`,
                title,
                status,
                detail: explanation,
                instance: '/v1',
                code,
                requestId: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a',
              },
            },
          ]),
        ),
      },
    },
  });

/** Everything that is said about a route beside its path and parameters: who may call it, what it answers, what it refuses. */
export function Operation(options: OperationOptions): MethodDecorator {
  const { allow, status = 200, type, isArray, produces, headers = [], accepts = [], body } = options;
  const anonymous = allow === 'anyone' || allow === 'operator';
  const all = new Set<ProblemType>([
    problems.malformedUrl,
    ...(anonymous ? [] : [problems.unauthenticated]),
    problems.notAcceptable,
    ...(body
      ? [problems.malformedJson, problems.validationFailed, problems.payloadTooLarge, problems.unsupportedMediaType]
      : []),
    ...(options.problems ?? []),
    problems.rateLimited,
    problems.internal,
    problems.overloaded,
    problems.databaseUnavailable,
    ...(body || status === 204 ? [problems.cacheUnavailable] : []),
  ]);
  const byStatus = new Map<number, ProblemType[]>();
  for (const problem of all) byStatus.set(problem.status, [...(byStatus.get(problem.status) ?? []), problem]);
  const content = type ? { type, ...(isArray ? { isArray } : {}) } : {};
  const success = produces
    ? { content: { [produces]: { schema: type ? { $ref: getSchemaPath(type) } : { type: 'string' } } } }
    : content;
  const notModified = accepts.includes('If-None-Match')
    ? [
        ApiResponse({
          status: 304,
          description: 'The copy at hand is still right.',
          headers: headersOf(RESPONSE_HEADERS, ['ETag']),
        }),
      ]
    : [];
  return applyDecorators(
    SetMetadata(ALLOW, allow),
    ApiOperation({ summary: options.summary, description: options.description ?? options.summary }),
    ApiResponse({
      status,
      description: status === 204 ? 'Done.' : status === 201 ? 'Made.' : 'The answer.',
      headers: { ...headersOf(COMMON_HEADERS), ...headersOf(RESPONSE_HEADERS, [...headers]) },
      ...success,
    } as Parameters<typeof ApiResponse>[0]),
    ...(type ? [ApiExtraModels(type)] : []),
    ...notModified,
    ...accepts.map((name) => {
      const bare = name.replace('!', '') as RequestHeader;
      return ApiHeader({
        name: bare,
        required: name.endsWith('!'),
        schema: { type: 'string' },
        ...REQUEST_HEADERS[bare],
      });
    }),
    ...[...byStatus].map(([code, types]) => problemResponse(code, types)),
    ...(anonymous ? [] : [ApiBearerAuth()]),
  );
}

/** OpenAPI 3.1 is JSON Schema 2020-12, which says "or null" in `type` and has no `nullable`. */
function modernise(node: unknown): void {
  if (typeof node !== 'object' || node === null) return;
  const schema = node as Record<string, unknown>;
  if (schema.nullable === true) {
    delete schema.nullable;
    if (typeof schema.type === 'string') schema.type = [schema.type, 'null'];
  }
  Object.values(schema).forEach(modernise);
}

/** One handler may serve several paths; each needs an id of its own. */
function distinguishOperations({ paths }: OpenAPIObject): void {
  const seen = new Map<string, number>();
  const operations = Object.entries(paths).flatMap(([path, item]) =>
    Object.values(item as Record<string, { operationId?: string }>).map((operation) => ({ path, operation })),
  );
  for (const { operation } of operations)
    seen.set(operation.operationId ?? '', (seen.get(operation.operationId ?? '') ?? 0) + 1);
  for (const { path, operation } of operations) {
    if ((seen.get(operation.operationId ?? '') ?? 0) > 1)
      operation.operationId = `${operation.operationId}_${path.split('/').at(-1)}`;
  }
}

const ABOUT = `Users, sessions and orders behind a REST API in which every read comes at cache speed and is never stale.

1. \`POST /v1/users\` registers, \`POST /v1/sessions\` logs in and answers with a token.
2. Press **Authorize** and paste the token.
3. \`POST /v1/orders\` places an order; \`GET /v1/orders/{id}\` reads it, and \`Cache-Status\` says how.

Every refusal is \`application/problem+json\` (RFC 9457) with a stable \`code\`.`;

export function buildDocument(app: INestApplication, version: string): OpenAPIObject {
  const config = new DocumentBuilder()
    .setOpenAPIVersion('3.1.0')
    .setTitle('Holdfast')
    .setDescription(ABOUT)
    .setVersion(version)
    .setContact('The Holdfast team', '/docs', '')
    .addServer('/', 'This service')
    .addTag('users', 'Who may call.')
    .addTag('sessions', 'Logins and their ends.')
    .addTag('orders', 'What was ordered, and what became of it.')
    .addTag('health', 'For Kubernetes and other probes.')
    .addTag('operations', 'For operators.')
    .addBearerAuth({ type: 'http', scheme: 'bearer', description: 'The token of POST /v1/sessions.' })
    .build();
  const document = SwaggerModule.createDocument(app, config, {
    extraModels: [ProblemShape],
    operationIdFactory: (_controller, method) => method,
  });
  modernise(document);
  distinguishOperations(document);
  return document;
}
