/**
 * Builds the OpenAPI 3.1 document from what the code enforces: fields of DTOs, `@Operation`, the
 * policy and the problem catalogue. A test compares it with docs/openapi.json.
 */
import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { describeRule } from '../../access/policy.js';
import { problemCatalogue, problems } from '../problems/problem.js';
import { NAMED_WORDS } from '../validation/fields.js';
import { RESPONSE_HEADERS, UNLIMITED_HEADERS } from './documented-headers.js';
import { ABOUT, ID_DESCRIPTIONS, TAGS } from './document-texts.js';
import { EXTENSIONS, type Variant } from './operation.decorator.js';
import { problemResponse, ProblemShape, UNEXPECTED_PROBLEM } from './problem-responses.js';

/** The parts of OpenAPI that this file changes. */
interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  enum?: string[];
  example?: unknown;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: boolean;
}
type Schemas = Record<string, Schema>;
interface Response {
  $ref?: string;
  description?: string;
  content?: Record<string, { examples?: Record<string, unknown> }>;
}
type Responses = Record<string, Response>;
interface Operation {
  tags: string[];
  operationId: string;
  summary: string;
  description: string;
  parameters: { name: string; in: string; description?: string; schema: Schema }[];
  requestBody?: {
    required?: boolean;
    content: { 'application/json': { schema: Schema; example?: unknown } };
  };
  responses: Responses;
  security?: object[];
  [extension: `x-${string}`]: unknown;
}
/** Path → method → operation. */
type Paths = Record<string, Record<string, Operation>>;
interface Components {
  schemas: Schemas;
  [kind: string]: object;
}

/** The document of an application's routes. It is the same for every configuration. */
export function buildDocument(app: INestApplication, version: string): OpenAPIObject {
  const document = SwaggerModule.createDocument(app, baseDocument(version), {
    extraModels: [ProblemShape],
    operationIdFactory: (_controller, method) => method,
  });
  Object.assign(document.info, {
    contact: { name: 'The Holdfast team' },
    license: { name: 'Unlicensed, all rights reserved' },
  });

  const components = document.components as unknown as Components;
  const paths = sortPaths(document.paths as unknown as Paths);
  for (const [path, item] of Object.entries(paths)) {
    for (const operation of Object.values(item)) {
      completeOperation(path, operation);
      completeBody(operation, components.schemas);
    }
  }
  components.schemas.ProblemCode = problemCodes();
  const { properties = {} } = components.schemas.Problem ?? {};
  const { description } = properties.code ?? {};
  properties.code = { $ref: '#/components/schemas/ProblemCode', description } as Schema;
  const shared = shareProblemResponses(Object.entries(paths));
  components.responses = { ...shared, UnexpectedProblem: UNEXPECTED_PROBLEM };
  components.headers = RESPONSE_HEADERS;
  components.examples = problemExamples(JSON.stringify([paths, components.responses]));
  // In the order in which people read it.
  const { openapi, info, servers, tags } = document;
  const complete = shareWords({ openapi, info, servers, tags, paths, components });
  Object.assign((complete.components as Components).schemas, namedSchemas());
  return complete as unknown as OpenAPIObject;
}

function baseDocument(version: string): Omit<OpenAPIObject, 'paths'> {
  const builder = new DocumentBuilder()
    .setOpenAPIVersion('3.1.0')
    .setTitle('Holdfast')
    .setDescription(ABOUT)
    .setVersion(version)
    .addServer('/', 'This service')
    .addBearerAuth({
      type: 'http',
      scheme: 'bearer',
      bearerFormat: 'opaque',
      description: 'The `token` in the response to POST /v1/sessions.',
    });
  for (const [tag, description] of Object.entries(TAGS)) builder.addTag(tag, description);
  return builder.build();
}

const METHODS = ['post', 'get', 'patch', 'put', 'delete'] as const;

/** By tag, then by path. An object comes before what belongs to it, `/me` before `/{id}`. */
function sortPaths(paths: Paths): Paths {
  const tags = Object.keys(TAGS);
  const rankOf = (path: string): string => {
    const tag = Object.values(paths[path] ?? {})[0]?.tags[0] ?? '';
    // "{" sorts after all letters.
    return `${tags.indexOf(tag)} ${path}`;
  };
  const names = Object.keys(paths).sort((a, b) => (rankOf(a) < rankOf(b) ? -1 : 1));
  return Object.fromEntries(names.map((path) => [path, sortMethods(paths[path] ?? {})]));
}

function sortMethods(item: Record<string, Operation>): Record<string, Operation> {
  const present = METHODS.filter((method) => method in item);
  return Object.fromEntries(present.map((method) => [method, item[method] as Operation]));
}

/** Adds what `@Operation` does not know: the path, and who may call according to the policy. */
function completeOperation(path: string, operation: Operation): void {
  const segments = path.split('/');
  const variants = operation[EXTENSIONS.variants] as Record<string, Variant> | undefined;
  if (variants) Object.assign(operation, variants[segments.at(-1) ?? '']);
  const callers = describeRule(operation[EXTENSIONS.allow] as string);
  if (callers) operation.description += `\n\n**Who:** ${callers}`;
  for (const extension of Object.values(EXTENSIONS)) delete operation[extension];
  operation.responses.default = { $ref: '#/components/responses/UnexpectedProblem' };
  // An empty list says explicitly that no session is needed.
  operation.security ??= [];
  for (const parameter of operation.parameters) {
    if (parameter.in !== 'path') continue;
    const collection = segments[segments.indexOf(`{${parameter.name}}`) - 1] ?? '';
    parameter.description = ID_DESCRIPTIONS[collection] ?? '';
    parameter.schema = { type: 'string', format: 'uuid' } as Schema;
    const { uriTooLong } = problems;
    operation.responses[uriTooLong.status] = problemResponse([uriTooLong], UNLIMITED_HEADERS);
  }
}

function completeBody({ requestBody }: Operation, schemas: Schemas): void {
  if (!requestBody) return;
  const content = requestBody.content['application/json'];
  const { required = [] } = resolve(content.schema, schemas);
  requestBody.required = required.length > 0;
  content.example = exampleOf(content.schema, schemas);
  forbidUnknownProperties(content.schema, schemas);
}

const resolve = (schema: Schema, schemas: Schemas): Schema => {
  if (schema.$ref === undefined) return schema;
  return schemas[schema.$ref.split('/').at(-1) ?? ''] ?? {};
};

/** A valid value, from the examples of the fields. Swagger UI fills it in. */
function exampleOf(reference: Schema, schemas: Schemas): unknown {
  const schema = resolve(reference, schemas);
  if (schema.example !== undefined) return schema.example;
  if (schema.type === 'array' && schema.items) return [exampleOf(schema.items, schemas)];
  const fields = Object.entries(schema.properties ?? {});
  return Object.fromEntries(fields.map(([name, field]) => [name, exampleOf(field, schemas)]));
}

/** In request bodies, names that a DTO does not have are errors. */
function forbidUnknownProperties(reference: Schema, schemas: Schemas): void {
  const schema = resolve(reference, schemas);
  if (schema.properties) schema.additionalProperties = false;
  const fields = Object.values(schema.properties ?? {});
  for (const field of fields) forbidUnknownProperties(field, schemas);
  if (schema.items) forbidUnknownProperties(schema.items, schemas);
}

/** Names of sets of problems that many routes have. Clients are generated from them. */
const NAMED_SETS: ReadonlyMap<string, string> = new Map([
  ['malformed-url,validation-failed', 'BadRequest'],
  ['malformed-url,malformed-json,validation-failed', 'BadRequestBody'],
  ['overloaded,database-unavailable', 'Unavailable'],
  ['overloaded,database-unavailable,cache-unavailable', 'UnavailableForWrites'],
]);

/**
 * Moves responses to `components.responses`: those with one problem, under its name, and
 * {@link NAMED_SETS}. Others stay where they are: a name made of their problems would change
 * whenever the route gets another.
 */
function shareProblemResponses(paths: readonly (readonly [string, Paths[string]])[]): Responses {
  const shared: Responses = {};
  const ofApi = paths.filter(([path]) => path.startsWith('/v1/'));
  for (const { responses } of ofApi.flatMap(([, item]) => Object.values(item))) {
    for (const [status, response] of Object.entries(responses)) {
      const name = nameOfProblems(problemCodesOf(response));
      if (name === undefined) continue;
      shared[name] ??= response;
      if (JSON.stringify(shared[name]) !== JSON.stringify(response)) {
        throw new Error(`Two responses of the name ${name} differ`);
      }
      responses[status] = { $ref: `#/components/responses/${name}` };
    }
  }
  return shared;
}

function nameOfProblems(codes: readonly string[]): string | undefined {
  const [code] = codes;
  const isSingle = code !== undefined && codes.length === 1;
  return isSingle ? pascalCase(code) : NAMED_SETS.get(codes.join());
}

const problemCodesOf = ({ content }: Response): string[] =>
  Object.keys(content?.['application/problem+json']?.examples ?? {});

const pascalCase = (code: string): string =>
  code.replace(/(^|-)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());

const problemCodes = (): Schema => ({
  type: 'string',
  enum: [...problemCatalogue.keys()].sort(),
  description: 'The stable name of a problem. /problems/<code> explains it.',
});

/** The schemas of {@link NAMED_WORDS}. */
function namedSchemas(): Schemas {
  const schemas = [...NAMED_WORDS].map(([name, words]) => [name, { type: 'string', enum: words }]);
  return Object.fromEntries(schemas) as Schemas;
}

/** A copy in which each schema that is one of {@link NAMED_WORDS} refers to its name. */
function shareWords<T>(node: T): T {
  if (Array.isArray(node)) return node.map(shareWords) as T;
  if (typeof node !== 'object' || node === null) return node;
  const copy = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, shareWords(value as unknown)]),
  );
  const name = Array.isArray(copy.enum) ? nameOfWords(copy.enum) : undefined;
  if (name === undefined) return copy as T;
  delete copy.type;
  delete copy.enum;
  return { $ref: `#/components/schemas/${name}`, ...copy } as T;
}

const nameOfWords = (words: readonly unknown[]): string | undefined =>
  [...NAMED_WORDS].find(([, known]) => known.join() === words.join())?.[0];

/** One example for each problem that the document refers to. */
function problemExamples(document: string): Record<string, object> {
  const used = [...problemCatalogue.values()].filter(({ code }) =>
    document.includes(`"#/components/examples/${code}"`),
  );
  return Object.fromEntries(
    used.map(({ code, title, status, explanation, example }) => [
      code,
      {
        summary: title,
        value: {
          type: `/problems/${code}`,
          title,
          status,
          detail: explanation,
          instance: '/v1/orders',
          code,
          requestId: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a',
          ...example,
        },
      },
    ]),
  );
}
