/** How problems appear in the OpenAPI document: their schema, and responses that list them. */
import { ApiProperty, ApiPropertyOptional, ApiSchema, getSchemaPath } from '@nestjs/swagger';
import type { ProblemType } from '../problems/problem.js';
import { refsTo, type ResponseHeader } from './documented-headers.js';

const FIELD_ERROR_SCHEMA = {
  type: 'object',
  required: ['pointer', 'code', 'detail'],
  properties: {
    pointer: {
      type: 'string',
      description: 'JSON Pointer (RFC 6901) to the member of the body, or a parameter.',
    },
    code: { type: 'string', description: 'The stable name of the violated rule.' },
    detail: { type: 'string' },
  },
};

@ApiSchema({ name: 'Problem', description: 'Why a request failed (RFC 9457).' })
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

  @ApiProperty({ type: String, description: 'What happened and what you can do.' })
  detail: string;

  @ApiProperty({
    type: String,
    format: 'uri-reference',
    description: 'The path of the request.',
  })
  instance: string;

  @ApiProperty({ type: String, description: 'The stable name of the problem, for programs.' })
  code: string;

  @ApiProperty({ type: String, description: 'The value of the X-Request-Id header.' })
  requestId: string;

  @ApiProperty({
    type: 'array',
    required: false,
    description: 'With validation-failed: each violated rule.',
    items: FIELD_ERROR_SCHEMA,
  } as never)
  errors?: object[];

  @ApiProperty({
    type: String,
    isArray: true,
    required: false,
    description: 'With invalid-transition: the actions that you may take now.',
  })
  allowed?: string[];

  @ApiPropertyOptional({
    type: 'object',
    additionalProperties: { type: 'object', additionalProperties: true },
    description: 'With not-ready: the state of each dependency.',
  })
  checks?: object;
}

/** Headers that problems of a status have beside those of every response. */
const HEADERS_BY_STATUS: Readonly<Record<number, readonly ResponseHeader[]>> = {
  401: ['WWW-Authenticate'],
  409: ['Retry-After'],
  412: ['ETag'],
  429: ['Retry-After'],
  503: ['Retry-After'],
};

/**
 * The response with one of these problems.
 * @param types at least one, all with the same status
 */
export const problemResponse = (
  types: readonly ProblemType[],
  headers: readonly ResponseHeader[],
) => {
  const ofStatus = HEADERS_BY_STATUS[types[0]?.status ?? 500] ?? [];
  const codes = types.map(({ code }) => code);
  return {
    description: types.map(({ code, title }) => `\`${code}\`: ${title}.`).join('\n\n'),
    headers: refsTo('headers', [...headers, 'Cache-Control', ...ofStatus]),
    content: {
      'application/problem+json': {
        schema: { $ref: getSchemaPath(ProblemShape) },
        examples: refsTo('examples', codes),
      },
    },
  };
};
