/**
 * The OpenAPI document as the rule of responses: status, headers, media type, schema and problem
 * code of each response are compared with what the document says.
 */
import { type AnySchema, Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { Reply } from './http-client.js';

interface Reference {
  readonly $ref?: string;
}
/** JSON Schema, as far as the document uses it. */
export interface Schema extends Reference {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly format?: string;
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly uniqueItems?: boolean;
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: unknown;
  readonly example?: string;
}
export interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly description?: string;
  readonly required?: boolean;
  readonly schema: Schema;
}
interface MediaType {
  readonly schema: Schema;
  /** Of the lines of NDJSON. */
  readonly 'x-item-schema'?: Schema;
  readonly examples?: Readonly<Record<string, Reference>>;
}
export interface DocumentedResponse extends Reference {
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
    readonly required?: boolean;
    readonly content: Readonly<
      Record<string, { readonly schema: Schema; readonly example: unknown }>
    >;
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

export const operationsOf = ({ paths }: OpenApi): readonly Operation[] =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({
      ...operation,
      method: method.toUpperCase(),
      path,
    })),
  );

/** The names that Schemathesis gives to these checks (schemathesis.readthedocs.io). */
export type Conformance =
  | 'status_code_conformance'
  | 'content_type_conformance'
  | 'response_headers_conformance'
  | 'response_schema_conformance';

export interface Deviation {
  readonly check: Conformance;
  readonly details: string;
}

const PROBLEM = 'application/problem+json';
const DOCUMENT_ID = 'openapi';
const MAX_SHOWN_CHARACTERS = 300;

export class DocumentedApi {
  readonly operations: readonly Operation[];
  private readonly ajv = new Ajv2020({ strict: false, allErrors: true });

  constructor(readonly document: OpenApi) {
    this.operations = operationsOf(document);
    formats.default(this.ajv);
    this.ajv.addFormat('double-int', true);
    this.ajv.addFormat('password', true);
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

  /** The schema itself, when this is a reference to it. */
  resolveSchema(schema: Schema): Schema {
    return schema.$ref === undefined ? schema : (this.component(schema.$ref) as Schema);
  }

  /** Whether the document allows this value as the operation's request body. */
  isValidBody({ path, method }: Operation, body: unknown): boolean {
    const schema = `${pointerTo(path, method)}/requestBody/content/application~1json/schema`;
    return this.validatorOf(schema)(body) === true;
  }

  /**
   * How a response differs from what the document says about it.
   * @param mayBeOther whether a problem that the operation does not list is allowed (`default`)
   */
  deviationsOf(operation: Operation, reply: Reply, mayBeOther = false): Deviation[] {
    const isListed = operation.responses[reply.status] !== undefined;
    const status = isListed || !mayBeOther ? String(reply.status) : 'default';
    const declared = operation.responses[status];
    if (!declared) {
      return [deviation('status_code_conformance', `${reply.status} is not documented`, reply)];
    }
    const response = this.resolveResponse(declared);
    const found = [...this.headerDeviations(response, reply)];
    const [mediaType] = Object.keys(response.content ?? {});
    const received = reply.headers.get('content-type')?.split(';')[0];
    const hasUnexpectedText = mediaType === undefined && reply.text !== '';
    if (received !== mediaType || hasUnexpectedText) {
      const details = `the type is ${received}, documented is ${mediaType}`;
      return [...found, deviation('content_type_conformance', details, reply)];
    }
    const hasBody = reply.text !== '' && mediaType !== undefined && mediaType !== 'text/plain';
    if (!hasBody) return found;
    found.push(...this.bodyDeviations(operation, status, mediaType, reply));
    const hasListedCode = mediaType === PROBLEM && !mayBeOther;
    if (hasListedCode) found.push(...this.codeDeviations(response, reply));
    return found;
  }

  private component($ref: string): object | undefined {
    const [, , kind = '', name = ''] = $ref.split('/');
    return this.document.components[kind]?.[name];
  }

  private resolveResponse(response: DocumentedResponse): DocumentedResponse {
    return response.$ref === undefined
      ? response
      : (this.component(response.$ref) as DocumentedResponse);
  }

  /** Headers that the document knows may occur only where it names them, and in its form. */
  private headerDeviations({ headers = {} }: DocumentedResponse, reply: Reply): Deviation[] {
    const known = Object.keys(this.document.components.headers ?? {});
    return known.flatMap((name) => {
      const value = reply.headers.get(name);
      if (value === null) return [];
      if (!(name in headers)) {
        return [deviation('response_headers_conformance', `${name} is not documented`, reply)];
      }
      const validate = this.validatorOf(`/components/headers/${name}/schema`);
      const isNumber = (this.component(`#/components/headers/${name}`) as Parameter).schema.type;
      const parsed = isNumber === 'integer' ? Number(value) : value;
      if (validate(parsed)) return [];
      return [deviation('response_headers_conformance', `${name} is ${value}`, reply)];
    });
  }

  private bodyDeviations(
    { path, method, responses }: Operation,
    status: string,
    mediaType: string,
    reply: Reply,
  ): Deviation[] {
    const inPlace = `${pointerTo(path, method)}/responses/${status}`;
    const response = responses[status]?.$ref?.slice(1) ?? inPlace;
    const isNdjson = mediaType.endsWith('ndjson');
    const keyword = isNdjson ? 'x-item-schema' : 'schema';
    const validate = this.validatorOf(
      `${response}/content/${mediaType.replace('/', '~1')}/${keyword}`,
    );
    const values: unknown[] = isNdjson ? parseLines(reply.text) : [reply.body];
    const invalid = values.find((value) => !validate(value));
    if (invalid === undefined) return [];
    validate(invalid);
    const errors = (validate.errors ?? []).map(
      ({ instancePath, message }) => `${instancePath} ${message}`,
    );
    return [deviation('response_schema_conformance', errors.join('; '), reply)];
  }

  private codeDeviations({ content = {} }: DocumentedResponse, reply: Reply): Deviation[] {
    const codes = content[PROBLEM]?.examples && Object.keys(content[PROBLEM].examples);
    const { code } = reply.body as { code?: string };
    if (codes === undefined || codes.includes(String(code))) return [];
    return [deviation('status_code_conformance', `the code ${code} is not documented`, reply)];
  }

  /** @param pointer into the document: ajv then resolves the references in it */
  private validatorOf(pointer: string): ValidateFunction {
    const $ref = `${DOCUMENT_ID}#${pointer}`;
    return this.ajv.getSchema($ref) ?? this.ajv.compile({ $ref });
  }
}

const pointerTo = (path: string, method: string): string => {
  const place = [path, method.toLowerCase()].map((part) =>
    encodeURIComponent(part.replace(/~/g, '~0').replace(/\//g, '~1')),
  );
  return `/paths/${place.join('/')}`;
};

const deviation = (check: Conformance, what: string, { status, text }: Reply): Deviation => ({
  check,
  details: `${what} (${status} ${text.slice(0, MAX_SHOWN_CHARACTERS)})`,
});

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
