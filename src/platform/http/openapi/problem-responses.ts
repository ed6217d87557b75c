/** How problems appear in the OpenAPI document: their schema, and responses that list them. */
import { ApiProperty, ApiPropertyOptional, ApiSchema, getSchemaPath } from '@nestjs/swagger';
import type { ProblemType } from '../problems/problem.js';
import { refsTo, type ResponseHeader } from './documented-headers.js';

@ApiSchema({ name: 'FieldError', description: 'One mistake in the body or in a parameter.' })
export class FieldErrorShape {
  @ApiProperty({
    type: String,
    description:
      'JSON Pointer (RFC 6901) to the member of the body, or "/" and the name of a parameter. ' +
      'Empty for the whole body.',
    example: '/items/0/quantity',
  })
  pointer: string;

  @ApiProperty({
    type: String,
    description: 'The stable name of the violated rule.',
    example: 'range',
  })
  code: string;

  @ApiProperty({
    type: String,
    description: 'What is wrong, for people.',
    example: 'items[0].quantity must be from 1 to 10000',
  })
  detail: string;
}

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

  @ApiProperty({ type: 'integer', format: 'int32', minimum: 400, maximum: 599 })
  status: number;

  @ApiProperty({ type: String, description: 'What happened and what you can do.' })
  detail: string;

  @ApiProperty({
    type: String,
    format: 'uri-reference',
    description: 'The path of the request. Empty when the request was not understood.',
  })
  instance: string;

  /** openapi-document.ts adds the codes: all of them are known only when it runs. */
  @ApiProperty({ type: String, description: 'The stable name of the problem, for programs.' })
  code: string;

  @ApiProperty({ type: String, description: 'The value of the X-Request-Id header.' })
  requestId: string;

  @ApiProperty({
    type: FieldErrorShape,
    isArray: true,
    required: false,
    description: 'With validation-failed: each mistake, up to 50.',
  })
  errors?: FieldErrorShape[];

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

/** The response that every operation may have beside those that it lists. */
export const UNEXPECTED_PROBLEM = {
  description:
    'Another problem. Programs decide by `code`, and by the class of the status if they do not ' +
    'know the code.',
  headers: refsTo('headers', ['X-Request-Id', 'Cache-Control']),
  content: { 'application/problem+json': { schema: { $ref: getSchemaPath('Problem') } } },
};

/**
 * The response with one of these problems.
 * @param types at least one, all with the same status
 */
export const problemResponse = (
  types: readonly ProblemType[],
  headers: readonly ResponseHeader[],
) => {
  const ofTypes = new Set(types.flatMap(({ headers: own = [] }) => own));
  const codes = types.map(({ code }) => code);
  return {
    description: types.map(({ code, title }) => `\`${code}\`: ${title}.`).join('\n\n'),
    headers: refsTo('headers', [...headers, 'Cache-Control', ...ofTypes]),
    content: {
      'application/problem+json': {
        schema: { $ref: getSchemaPath(ProblemShape) },
        examples: refsTo('examples', codes),
      },
    },
  };
};
