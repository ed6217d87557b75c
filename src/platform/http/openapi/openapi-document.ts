/**
 * The OpenAPI 3.1 document, made from what the code enforces: DTO fields carry their rules, `@Operation` the rest. It is read
 * by people first: in the order of a first visit, each thing said once. docs/openapi.json is held equal to it by a test.
 */
import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { callers } from './actor.js';
import {
  NOTES,
  ProblemShape,
  refusalOf,
  RESPONSE_HEADERS,
  UNLIMITED_HEADERS,
  type Variant,
} from './openapi.js';
import { problemCatalogue, problems } from './problem.js';

const ABOUT = `Users, sessions and orders behind a REST API in which every read comes at cache speed and is never stale.

**Try it here:**
1. \`POST /v1/users\` registers you, \`POST /v1/sessions\` logs you in. Both forms are filled in: press **Execute**.
2. Copy the \`token\` out of the answer, press **Authorize** and paste it.
3. \`POST /v1/orders\` places an order. Read it twice with \`GET /v1/orders/{id}\`: the header \`Cache-Status\` says where each answer came from.

**Good to know:**
- Every refusal is \`application/problem+json\` (RFC 9457) with a stable \`code\`; [a page](/problems) explains each.
- A user or an order carries its version as \`ETag\`. A change names the version that it changes with \`If-Match\`; \`If-None-Match\` saves reading what has not changed.
- Money is whole minor units (cents) with an ISO 4217 currency. Times are RFC 3339 in UTC. Unknown properties and parameters are refused.
- Lists are read page by page: pass \`next\` as \`cursor\`, or follow the \`Link\` header.
- Every \`GET\` has its \`HEAD\`, every path its \`OPTIONS\`.`;

/** In the order in which they are shown. */
const TAGS = {
  users: 'Register, change and remove the people who may call.',
  sessions:
    'Log in, see where you are logged in, log out. An ended session is refused on every node at once.',
  orders: 'Place orders, take them through their life, and see what became of them.',
  health: 'What Kubernetes and load balancers ask. No session, no limits.',
  operations: 'For operators.',
} as const;

/** The object that a path's id names, by the part before it. */
const IDS: Readonly<Record<string, string>> = {
  users: 'The id of the user.',
  sessions: 'The id of the session.',
  orders: 'The id of the order.',
};

const METHODS = ['post', 'get', 'patch', 'put', 'delete'] as const;

/** As much of OpenAPI as is touched here. */
interface Schema {
  $ref?: string;
  type?: string | string[];
  example?: unknown;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: boolean;
}
interface Reply {
  $ref?: string;
  description?: string;
  content?: Record<string, { examples?: Record<string, unknown> }>;
}
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
  responses: Record<string, Reply>;
  security?: object[];
  [note: `x-${string}`]: unknown;
}
type Paths = Record<string, Record<string, Operation>>;
interface Components {
  schemas: Record<string, Schema>;
  [kind: string]: object;
}

/** What `@Operation` could not say yet: it knows neither its path nor the policy. */
function complete(path: string, operation: Operation): void {
  const parts = path.split('/');
  const variants = operation[NOTES.variants] as Record<string, Variant> | undefined;
  if (variants) Object.assign(operation, variants[parts.at(-1) ?? '']);
  const who = callers.get(operation[NOTES.allow] as string);
  if (who) operation.description += `\n\n**Who:** ${who}`;
  for (const note of Object.values(NOTES)) delete operation[note];
  // Said, and not only left out: no session is needed.
  operation.security ??= [];
  for (const parameter of operation.parameters) {
    if (parameter.in !== 'path') continue;
    parameter.description = IDS[parts[parts.indexOf(`{${parameter.name}}`) - 1] ?? ''] ?? '';
    parameter.schema = { type: 'string', format: 'uuid' } as Schema;
    operation.responses[problems.uriTooLong.status] = refusalOf(
      [problems.uriTooLong],
      UNLIMITED_HEADERS,
    );
  }
}

/** A value made of the examples of a schema's fields: what Swagger UI fills in, and what may be sent as it is. */
function exampleOf(schema: Schema, schemas: Record<string, Schema>): unknown {
  if (schema.$ref) return exampleOf(schemas[schema.$ref.split('/').at(-1) ?? ''] ?? {}, schemas);
  if (schema.example !== undefined) return schema.example;
  if (schema.type === 'array' && schema.items) return [exampleOf(schema.items, schemas)];
  const fields = Object.entries(schema.properties ?? {});
  return Object.fromEntries(fields.map(([name, field]) => [name, exampleOf(field, schemas)]));
}

/** What no DTO names is refused, in all that is sent. */
function close(schema: Schema, schemas: Record<string, Schema>): void {
  if (schema.$ref) return close(schemas[schema.$ref.split('/').at(-1) ?? ''] ?? {}, schemas);
  if (schema.properties) schema.additionalProperties = false;
  for (const field of [
    ...Object.values(schema.properties ?? {}),
    ...(schema.items ? [schema.items] : []),
  ])
    close(field, schemas);
}

function describeBody({ requestBody }: Operation, schemas: Record<string, Schema>): void {
  if (!requestBody) return;
  const content = requestBody.content['application/json'];
  const { required = [] } = schemas[content.schema.$ref?.split('/').at(-1) ?? ''] ?? {};
  requestBody.required = required.length > 0;
  content.example = exampleOf(content.schema, schemas);
  close(content.schema, schemas);
}

/** The order of a first visit: by tag, then by path, a resource before what lies in it. */
function sorted(paths: Paths): Paths {
  const tags = Object.keys(TAGS);
  const rank = (path: string): string => {
    const tag = Object.values(paths[path] ?? {})[0]?.tags[0] ?? '';
    // "{" sorts behind all letters, and a fixed name before an id is what is wanted.
    return `${tags.indexOf(tag)} ${path}`;
  };
  const order = Object.keys(paths).sort((one, other) => (rank(one) < rank(other) ? -1 : 1));
  const item = (path: string) =>
    Object.fromEntries(
      METHODS.flatMap((method) =>
        Object.entries(paths[path] ?? {}).filter(([own]) => own === method),
      ),
    );
  return Object.fromEntries(order.map((path) => [path, item(path)]));
}

const pascal = (code: string): string =>
  code.replace(/(^|-)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());

/** Moves each refusal that several routes share to components/responses, named after its problems. */
function shareRefusals(operations: readonly Operation[], components: Components): void {
  const uses = new Map<string, { name: string; reply: Reply; where: (() => void)[] }>();
  for (const { responses } of operations) {
    for (const [status, reply] of Object.entries(responses)) {
      const codes = Object.keys(reply.content?.['application/problem+json']?.examples ?? {});
      if (codes.length === 0) continue;
      const name = codes.map(pascal).join('Or');
      const use = uses.get(JSON.stringify(reply)) ?? { name, reply, where: [] };
      use.where.push(() => (responses[status] = { $ref: `#/components/responses/${name}` }));
      uses.set(JSON.stringify(reply), use);
    }
  }
  const shared: Record<string, Reply> = {};
  for (const { name, reply, where } of uses.values()) {
    if (where.length < 2 || name in shared) continue;
    shared[name] = reply;
    for (const replace of where) replace();
  }
  components.responses = shared;
}

/** One example for each problem that some route names. */
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

/** The document of an application's routes; the same for every configuration. */
export function buildDocument(app: INestApplication, version: string): OpenAPIObject {
  const config = new DocumentBuilder()
    .setOpenAPIVersion('3.1.0')
    .setTitle('Holdfast')
    .setDescription(ABOUT)
    .setVersion(version)
    .addServer('/', 'This service')
    .addBearerAuth({
      type: 'http',
      scheme: 'bearer',
      description: 'The `token` that POST /v1/sessions answered with.',
    });
  for (const [tag, about] of Object.entries(TAGS)) config.addTag(tag, about);
  const document = SwaggerModule.createDocument(app, config.build(), {
    extraModels: [ProblemShape],
    operationIdFactory: (_controller, method) => method,
  });
  Object.assign(document.info, {
    contact: { name: 'The Holdfast team' },
    license: { name: 'Unlicensed, all rights reserved' },
  });

  const components = document.components as unknown as Components;
  const paths = sorted(document.paths as unknown as Paths);
  const operations = Object.entries(paths).flatMap(([path, item]) => {
    for (const operation of Object.values(item)) {
      complete(path, operation);
      describeBody(operation, components.schemas);
    }
    return Object.values(item);
  });
  shareRefusals(operations, components);
  components.headers = Object.fromEntries(
    Object.entries(RESPONSE_HEADERS).map(([name, description]) => [
      name,
      { description, schema: { type: 'string' } },
    ]),
  );
  components.examples = problemExamples(JSON.stringify([paths, components.responses]));
  // The order in which a person reads it.
  const { openapi, info, servers, tags } = document;
  return { openapi, info, servers, tags, paths, components } as unknown as OpenAPIObject;
}
