/**
 * A client that knows only the OpenAPI document: it sends the document's examples, and checks that
 * each response is as documented: status, headers, media type, schema and problem code.
 */
import { expect } from '@jest/globals';
import { type AnySchema, Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { TestApp } from '../../../support/app.js';
import type { Reply } from '../../../support/http-client.js';

interface Reference {
  readonly $ref?: string;
}
interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly description?: string;
  readonly required?: boolean;
  readonly schema: { readonly example?: string };
}
interface MediaType {
  readonly schema: object;
  /** Of the lines of NDJSON. */
  readonly 'x-item-schema'?: object;
  readonly examples?: Readonly<Record<string, Reference>>;
}
interface DocumentedResponse extends Reference {
  readonly headers?: Readonly<Record<string, Reference>>;
  readonly content?: Readonly<Record<string, MediaType>>;
}
export interface Operation {
  readonly method: string;
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: {
    readonly content: Readonly<Record<string, { readonly example: unknown }>>;
  };
  readonly responses: Readonly<Record<string, DocumentedResponse>>;
  readonly security: readonly object[];
}
export interface OpenApi {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, Omit<Operation, 'method' | 'path'>>>>
  >;
  readonly components: Readonly<Record<string, Readonly<Record<string, object>>>>;
}

export interface DocumentedRequest {
  readonly token?: string;
  /** Values of the path parameters. */
  readonly path?: Readonly<Record<string, string>>;
  /** With the question mark. */
  readonly query?: string;
  /** Beside the required ones, which have the document's examples. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Required headers that are not sent. */
  readonly without?: readonly string[];
  /** The document's example when absent; no body when undefined. */
  readonly body?: unknown;
}

export const operationsOf = ({ paths }: OpenApi): readonly Operation[] =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({
      ...operation,
      method: method.toUpperCase(),
      path,
    })),
  );

const PROBLEM = 'application/problem+json';
const DOCUMENT_ID = 'openapi';

export class DocumentedClient {
  readonly operations: readonly Operation[];
  /** `<operationId> <status>` of every response so far. */
  readonly seen = new Set<string>();
  private readonly ajv = new Ajv2020({ strict: false, allErrors: true });

  constructor(
    private readonly document: OpenApi,
    private readonly app: TestApp,
  ) {
    this.operations = operationsOf(document);
    formats.default(this.ajv);
    this.ajv.addFormat('double-int', true);
    // ajv-formats requires a dot in the domain, RFC 5321 does not: "admin@localhost".
    this.ajv.addFormat('email', /^[^@\s]+@[^@\s]+$/);
    this.ajv.addSchema(withClosedObjects(document) as AnySchema, DOCUMENT_ID);
  }

  /** @throws Error when the document has no such operation */
  operation(id: string): Operation {
    const operation = this.operations.find(({ operationId }) => operationId === id);
    if (!operation) throw new Error(`no operation ${id}`);
    return operation;
  }

  /** The body that the document gives as the operation's example. */
  exampleBody(id: string): unknown {
    return this.operation(id).requestBody?.content['application/json']?.example;
  }

  /** Sends the operation and compares the response with the documentation of its status. */
  async send(id: string, request: DocumentedRequest = {}): Promise<Reply> {
    const { token, path = {}, query = '', headers = {}, without = [] } = request;
    const operation = this.operation(id);
    const required = operation.parameters.filter(
      ({ name, in: place, required: isRequired }) =>
        place === 'header' && isRequired && !without.includes(name),
    );
    const examples = required.map(({ name, schema }) => [name, String(schema.example)] as const);
    const url = operation.path.replace(
      /\{(\w+)\}/g,
      (template, name: string) => path[name] ?? template,
    );
    const reply = await this.app.call(operation.method, url + query, {
      token,
      headers: { ...Object.fromEntries(examples), ...headers },
      body: 'body' in request ? request.body : this.exampleBody(id),
    });
    this.check(operation, reply);
    return reply;
  }

  private check(operation: Operation, reply: Reply): void {
    const where = `${operation.operationId} ${reply.status}`;
    const declared = operation.responses[reply.status];
    if (!declared) throw new Error(`${where} is not documented: ${reply.text}`);
    this.seen.add(where);
    const response = this.resolve(declared);
    this.checkHeaders(where, response, reply);
    const mediaType = this.checkMediaType(where, response, reply);
    if (mediaType === undefined || mediaType === 'text/plain') return;
    this.checkBody(where, this.schemaOf(operation, reply.status, mediaType), mediaType, reply);
    if (mediaType === PROBLEM) {
      const codes = Object.keys(response.content?.[PROBLEM]?.examples ?? {});
      expect(codes).toContain(reply.body.code);
    }
  }

  private resolve(response: DocumentedResponse): DocumentedResponse {
    if (response.$ref === undefined) return response;
    const [, , kind = '', name = ''] = response.$ref.split('/');
    return this.document.components[kind]?.[name] as DocumentedResponse;
  }

  /** Headers that the document knows may occur only where it names them. */
  private checkHeaders(where: string, { headers = {} }: DocumentedResponse, reply: Reply): void {
    const known = Object.keys(this.document.components.headers ?? {});
    const undocumented = known.filter((name) => reply.headers.has(name) && !(name in headers));
    expect({ where, undocumented }).toEqual({ where, undocumented: [] });
  }

  private checkMediaType(
    where: string,
    { content = {} }: DocumentedResponse,
    { headers, text }: Reply,
  ): string | undefined {
    const [mediaType] = Object.keys(content);
    const received = headers.get('content-type')?.split(';')[0];
    const unexpectedText = mediaType === undefined ? text : '';
    expect({ where, received, unexpectedText }).toEqual({
      where,
      received: mediaType,
      unexpectedText: '',
    });
    return mediaType;
  }

  /** A reference into the document, so that ajv resolves the references in it. */
  private schemaOf({ path, method, responses }: Operation, status: number, type: string): string {
    const place = [path, method.toLowerCase()].map((part) =>
      encodeURIComponent(part.replace(/~/g, '~0').replace(/\//g, '~1')),
    );
    const inPlace = `#/paths/${place.join('/')}/responses/${status}`;
    const response = responses[status]?.$ref ?? inPlace;
    const keyword = type.endsWith('ndjson') ? 'x-item-schema' : 'schema';
    return `${DOCUMENT_ID}${response}/content/${type.replace('/', '~1')}/${keyword}`;
  }

  private checkBody(where: string, $ref: string, mediaType: string, { body, text }: Reply): void {
    const validate = this.ajv.getSchema($ref) ?? this.ajv.compile({ $ref });
    const isNdjson = mediaType.endsWith('ndjson');
    const values: unknown[] = isNdjson ? parseLines(text) : [body];
    const invalid = values.filter((value) => !validate(value));
    expect({ where, invalid, errors: validate.errors ?? null }).toEqual({
      where,
      invalid: [],
      errors: null,
    });
  }
}

const parseLines = (text: string): unknown[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);

/** A copy in which objects have no other properties than the documented ones. */
function withClosedObjects(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withClosedObjects);
  if (typeof node !== 'object' || node === null) return node;
  const copy = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withClosedObjects(value)]),
  );
  const isOpenObject =
    copy.type === 'object' && copy.properties && !('additionalProperties' in copy);
  return isOpenObject ? { ...copy, additionalProperties: false } : copy;
}
