/**
 * `@Operation`: declares who may call a route, what it answers and which problems it has. The guard
 * reads the first part; openapi-document.ts makes the OpenAPI document of all of it.
 */
import { applyDecorators, type Type } from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiExtension,
  ApiExtraModels,
  ApiHeader,
  ApiOperation,
  ApiResponse,
  getSchemaPath,
} from '@nestjs/swagger';
import { type ProblemType, problems } from '../problems/problem.js';
import { Allow } from '../server/allow.decorator.js';
import {
  headersOfEvery,
  refsTo,
  REQUEST_HEADERS,
  type RequestHeader,
  type ResponseHeader,
} from './documented-headers.js';
import { problemResponse } from './problem-responses.js';

/** Replaces a handler's texts for one of its paths. */
export interface Variant {
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
}

/** Extensions that carry data to openapi-document.ts, which removes them. */
export const EXTENSIONS = { allow: 'x-allow', variants: 'x-variants' } as const;

export interface OperationOptions {
  /**
   * A row of POLICY (access/policy.ts): who may call the route. `anyone` and `operator` need no
   * session.
   */
  readonly allow: string;
  /** Imperative. */
  readonly summary: string;
  /** The summary when absent. */
  readonly description?: string;
  /** For a handler with several paths, by the last segment of the path. */
  readonly variants?: Readonly<Record<string, Variant>>;
  /** Of success; 200 when absent. */
  readonly status?: number;
  /** Of the response body. */
  readonly type?: Type;
  /** Describes the response. */
  readonly returns?: string;
  /** Media type of the response, when it is not JSON. */
  readonly produces?: string;
  readonly headers?: readonly ResponseHeader[];
  /** Request headers. A name that ends with `!` is required. */
  readonly accepts?: readonly (RequestHeader | `${RequestHeader}!`)[];
  /** Beside those that every route has. */
  readonly problems?: readonly ProblemType[];
  readonly hasBody?: boolean;
}

export function Operation(options: OperationOptions): MethodDecorator {
  const { allow, summary, description = summary, variants, type } = options;
  const needsSession = allow !== 'anyone' && allow !== 'operator';
  return applyDecorators(
    Allow(allow),
    ApiOperation({ summary, description }),
    ApiExtension(EXTENSIONS.allow, allow),
    ...(variants ? [ApiExtension(EXTENSIONS.variants, variants)] : []),
    successResponse(options),
    ...(type ? [ApiExtraModels(type)] : []),
    ...notModifiedResponse(options),
    ...requestHeaders(options),
    ...problemResponses(options),
    ...(needsSession ? [ApiBearerAuth()] : []),
  );
}

type Response = Parameters<typeof ApiResponse>[0];

function successResponse(options: OperationOptions): MethodDecorator {
  const { allow, status = 200, headers = [], returns } = options;
  const fallback = status === 204 ? 'Success, without a body.' : 'Success.';
  return ApiResponse({
    status,
    description: returns ?? fallback,
    headers: refsTo('headers', [...headersOfEvery(allow), ...headers]),
    ...responseBody(options),
  } as Response);
}

function responseBody({ type, produces }: OperationOptions): object {
  if (produces === undefined) return type ? { type } : {};
  const text = { type: 'string', contentMediaType: produces };
  // OpenAPI 3.1 has no schema for the items of a sequence; 3.2 calls it `itemSchema`.
  const items = type ? { 'x-item-schema': { $ref: getSchemaPath(type) } } : {};
  return { content: { [produces]: { schema: text, ...items } } };
}

function notModifiedResponse({ allow, accepts = [] }: OperationOptions): MethodDecorator[] {
  if (!accepts.includes('If-None-Match')) return [];
  const headers = [...headersOfEvery(allow), 'ETag', 'Cache-Control', 'Cache-Status'];
  const response = {
    status: 304,
    description: 'Your copy is current.',
    headers: refsTo('headers', headers),
  };
  return [ApiResponse(response as Response)];
}

function requestHeaders({ accepts = [] }: OperationOptions): MethodDecorator[] {
  return accepts.map((declared) => {
    const name = declared.replace('!', '') as RequestHeader;
    const isRequired = declared.endsWith('!');
    const { description, schema, ...example } = REQUEST_HEADERS[name];
    const withExample = { ...schema, ...(isRequired ? example : {}) };
    return ApiHeader({ name, description, required: isRequired, schema: withExample as object });
  });
}

function problemResponses(options: OperationOptions): MethodDecorator[] {
  const byStatus = new Map<number, ProblemType[]>();
  for (const problem of problemsOf(options)) {
    const sameStatus = byStatus.get(problem.status) ?? [];
    byStatus.set(problem.status, [...sameStatus, problem]);
  }
  const headers = headersOfEvery(options.allow);
  return [...byStatus].map(([status, types]) =>
    ApiResponse({ status, ...problemResponse(types, headers) } as Response),
  );
}

/** The route's own problems, and those that follow from its options. */
function problemsOf(options: OperationOptions): Set<ProblemType> {
  const { allow, hasBody, status, accepts = [], problems: ofRoute = [] } = options;
  if (allow === 'operator') return new Set([problems.malformedUrl, ...ofRoute, problems.internal]);
  const ofBody = [problems.malformedJson, problems.payloadTooLarge, problems.unsupportedMediaType];
  const isWrite = hasBody || status === 204;
  const hasIfMatch = accepts.some((name) => name.startsWith('If-Match'));
  return new Set<ProblemType>([
    problems.malformedUrl,
    ...(allow === 'anyone' ? [] : [problems.unauthenticated]),
    problems.notAcceptable,
    ...(hasBody ? ofBody : []),
    problems.validationFailed,
    ...(hasIfMatch ? [problems.ifMatchMalformed] : []),
    ...ofRoute,
    problems.rateLimited,
    problems.internal,
    problems.overloaded,
    problems.databaseUnavailable,
    ...(isWrite ? [problems.cacheUnavailable] : []),
  ]);
}
