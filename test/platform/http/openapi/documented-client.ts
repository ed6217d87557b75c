/**
 * A client that knows only the OpenAPI document: it sends the document's examples, and checks that
 * each response is as documented (test/support/documented-api.ts).
 */
import { expect } from '@jest/globals';
import type { TestApp } from '../../../support/app.js';
import { DocumentedApi, type OpenApi, type Operation } from '../../../support/documented-api.js';
import type { Reply } from '../../../support/http-client.js';

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

export class DocumentedClient {
  readonly operations: readonly Operation[];
  /** `<operationId> <status>` of every response so far. */
  readonly seen = new Set<string>();
  private readonly api: DocumentedApi;

  constructor(
    document: OpenApi,
    private readonly app: TestApp,
  ) {
    this.api = new DocumentedApi(document);
    this.operations = this.api.operations;
  }

  /** @throws Error when the document has no such operation */
  operation(id: string): Operation {
    return this.api.operation(id);
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
    const where = `${id} ${reply.status}`;
    const deviations = this.api.deviationsOf(operation, reply);
    expect({ where, deviations }).toEqual({ where, deviations: [] });
    this.seen.add(where);
    return reply;
  }
}
