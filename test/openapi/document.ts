/**
 * The OpenAPI document as a client: it sends what the document says, with the document's own examples, and holds each answer to
 * what the document says of it: status, media type, headers, problem code, and a body without a member that is not written down.
 */
import { expect } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { Reply, TestApp } from '../support/app.js';

interface Ref {
  readonly $ref?: string;
}
interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required?: boolean;
  readonly schema: { readonly example?: string };
}
interface Answer extends Ref {
  readonly headers?: Readonly<Record<string, Ref>>;
  readonly content?: Readonly<
    Record<string, { schema: object; examples?: Readonly<Record<string, Ref>> }>
  >;
}
export interface Operation {
  readonly method: string;
  readonly path: string;
  readonly operationId: string;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: {
    readonly content: Readonly<Record<string, { readonly example: unknown }>>;
  };
  readonly responses: Readonly<Record<string, Answer>>;
  readonly security: readonly object[];
}
interface OpenApi {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, Omit<Operation, 'method' | 'path'>>>>
  >;
  readonly components: Readonly<Record<string, Readonly<Record<string, object>>>>;
}

export interface Request {
  readonly token?: string;
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: string;
  /** Beside the required ones, which are sent with the document's example. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Required headers that are not sent. */
  readonly without?: readonly string[];
  /** Instead of the example. */
  readonly body?: unknown;
}

const PROBLEM = 'application/problem+json';

export class DocumentedClient {
  readonly operations: readonly Operation[];
  /** "operationId status" of every answer so far. */
  readonly seen = new Set<string>();
  private readonly ajv = new Ajv2020({ strict: false, allErrors: true });

  constructor(
    private readonly document: OpenApi,
    private readonly app: TestApp,
  ) {
    this.operations = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.entries(item).map(([method, operation]) => ({
        ...operation,
        method: method.toUpperCase(),
        path,
      })),
    );
    formats.default(this.ajv);
    // The usual form wants a dot in the domain, which RFC 5321 does not: "admin@localhost".
    this.ajv.addFormat('email', /^[^@\s]+@[^@\s]+$/);
    this.ajv.addSchema(closed(document) as object, 'openapi');
  }

  operation(id: string): Operation {
    const found = this.operations.find(({ operationId }) => operationId === id);
    if (!found) throw new Error(`no operation ${id}`);
    return found;
  }

  /** Sends the operation as it is documented and checks the answer against the documentation of its status. */
  async send(
    id: string,
    { token, path = {}, query = '', headers = {}, without = [], ...rest }: Request = {},
  ): Promise<Reply> {
    const operation = this.operation(id);
    const given = operation.parameters.filter(
      ({ name, in: place, required }) => place === 'header' && required && !without.includes(name),
    );
    const examples = Object.fromEntries(
      given.map(({ name, schema }) => [name, String(schema.example)]),
    );
    const url = operation.path.replace(
      /\{(\w+)\}/g,
      (_, name: string) => path[name] ?? `{${name}}`,
    );
    const reply = await this.app.call(operation.method, url + query, {
      token,
      headers: { ...examples, ...headers },
      body:
        'body' in rest ? rest.body : operation.requestBody?.content['application/json']?.example,
    });
    this.check(operation, reply);
    return reply;
  }

  private resolve<T extends Ref>(node: T): T {
    if (!node.$ref) return node;
    const [, , kind = '', name = ''] = node.$ref.split('/');
    return this.document.components[kind]?.[name] as T;
  }

  private check(
    { operationId, responses }: Operation,
    { status, headers, body, text }: Reply,
  ): void {
    const where = `${operationId} ${status}`;
    const answer = responses[status];
    if (!answer) throw new Error(`${where} is not documented: ${text}`);
    const { content = {}, headers: told = {} } = this.resolve(answer);
    this.seen.add(where);

    const known = Object.keys(this.document.components.headers ?? {});
    const silent = known.filter((name) => headers.has(name) && !(name in told));
    expect({ where, headersNotDocumented: silent }).toEqual({ where, headersNotDocumented: [] });

    const type = headers.get('content-type')?.split(';')[0];
    const [media] = Object.keys(content);
    expect({ where, type, text: media ? '' : text }).toEqual({ where, type: media, text: '' });
    if (!media || media === 'text/plain') return;
    const pointer = `#/paths/${[
      this.operation(operationId).path,
      this.operation(operationId).method.toLowerCase(),
    ]
      .map((part) => encodeURIComponent(part.replace(/~/g, '~0').replace(/\//g, '~1')))
      .join('/')}/responses/${status}`;
    const at = answer.$ref ?? pointer;
    const $ref = `openapi${at}/content/${media.replace('/', '~1')}/schema`;
    const validate = this.ajv.getSchema($ref) ?? this.ajv.compile({ $ref });
    const values: unknown[] = media.endsWith('ndjson')
      ? text
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line) as unknown)
      : [body];
    for (const value of values) {
      const valid = validate(value);
      expect({ where, valid, errors: validate.errors ?? null, value }).toMatchObject({
        where,
        valid: true,
      });
    }
    if (media === PROBLEM)
      expect(Object.keys(content[PROBLEM]?.examples ?? {})).toContain(body.code);
  }
}

/** The same document, in which every object that says nothing of other members has none. */
function closed(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(closed);
  if (typeof node !== 'object' || node === null) return node;
  const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, closed(value)]));
  if (copy.type === 'object' && copy.properties && !('additionalProperties' in copy))
    copy.additionalProperties = false;
  return copy;
}
