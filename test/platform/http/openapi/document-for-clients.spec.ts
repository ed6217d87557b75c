/**
 * What generated clients depend on in the OpenAPI document: number formats, shared enumerations,
 * stable names, open responses, documented rules.
 */
import { describe, expect, it } from '@jest/globals';
import { generateOpenApi } from '../../../../scripts/docs/openapi.js';
import { ORDER_STATUSES } from '../../../../src/orders/order-lifecycle.js';
import { EVENT_TYPES } from '../../../../src/orders/projection/order-events.js';
import { ROLES } from '../../../../src/platform/access/actor.js';
import { problemCatalogue } from '../../../../src/platform/http/problems/problem.js';
import { type OpenApi, type Operation, operationsOf } from '../../../support/documented-api.js';

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly format?: string;
  readonly enum?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: unknown;
}

const DOCUMENT = JSON.parse(await generateOpenApi()) as OpenApi;
const OPERATIONS = operationsOf(DOCUMENT);
const SCHEMAS = DOCUMENT.components.schemas as Readonly<Record<string, Schema>>;
const RESPONSES = DOCUMENT.components.responses as Readonly<Record<string, DocumentedResponse>>;
const HEADERS = DOCUMENT.components.headers as Readonly<
  Record<string, { readonly description: string; readonly schema: Schema }>
>;
type DocumentedResponse = Operation['responses'][string];

/** Every object in a part of the document, with where it is. */
function nodesIn(part: unknown, place = ''): { place: string; node: Schema }[] {
  if (typeof part !== 'object' || part === null) return [];
  const children = Object.entries(part).flatMap(([key, child]) =>
    nodesIn(child, `${place}/${key}`),
  );
  return Array.isArray(part) ? children : [{ place, node: part as Schema }, ...children];
}

/** Names of all schemas that a part refers to, directly or through others. */
function schemasOf(part: unknown, found = new Set<string>()): Set<string> {
  for (const { node } of nodesIn(part)) {
    const [, kind, name] = /^#\/components\/(\w+)\/(.+)$/.exec(node.$ref ?? '') ?? [];
    if (kind === undefined || name === undefined || found.has(name)) continue;
    if (kind === 'schemas') found.add(name);
    schemasOf(DOCUMENT.components[kind]?.[name], found);
  }
  return found;
}

const REQUEST_SCHEMAS = schemasOf(OPERATIONS.map(({ requestBody }) => requestBody));
const RESPONSE_SCHEMAS = schemasOf(OPERATIONS.map(({ responses }) => responses));
const isObject = (name: string): boolean => SCHEMAS[name]?.type === 'object';

const resolved = (response: DocumentedResponse): DocumentedResponse =>
  response.$ref === undefined ? response : (RESPONSES[response.$ref.split('/').at(-1) ?? ''] ?? {});

const codesOf = (response: DocumentedResponse): string[] =>
  Object.keys(resolved(response).content?.['application/problem+json']?.examples ?? {});

describe('tokens', () => {
  it('are opaque, and no JWT', () => {
    expect(DOCUMENT.components.securitySchemes).toEqual({
      bearer: expect.objectContaining({ scheme: 'bearer', bearerFormat: 'opaque' }),
    });
  });
});

describe('integers', () => {
  const integers = nodesIn(DOCUMENT).filter(({ node }) => node.type === 'integer');

  it('have a format that holds all of their values, and that JSON carries', () => {
    expect(integers.length).toBeGreaterThan(10);
    const wrong = integers.filter(({ node: { format, maximum = 2 ** 31 - 1 } }) => {
      const expected = maximum < 2 ** 31 ? 'int32' : 'double-int';
      return format !== expected || maximum > Number.MAX_SAFE_INTEGER;
    });
    expect(wrong).toEqual([]);
  });
});

describe('enumerations', () => {
  it.each<[string, readonly string[]]>([
    ['OrderStatus', ORDER_STATUSES],
    ['Role', ROLES],
    ['OrderEventType', [...EVENT_TYPES.keys()]],
    ['ProblemCode', [...problemCatalogue.keys()].sort()],
  ])('%s has its values, as one schema', (name, values) => {
    expect(SCHEMAS[name]?.enum).toEqual(values);
  });

  it('with several values are written once', () => {
    const inline = nodesIn(DOCUMENT)
      .filter(({ node }) => Array.isArray(node.enum) && node.enum.length > 1)
      .map(({ place }) => place);
    const shared = ['OrderStatus', 'Role', 'OrderEventType', 'ProblemCode', 'Currency'];
    expect(inline.sort()).toEqual(
      [...shared.map((name) => `/components/schemas/${name}`), HEALTH_STATUS].sort(),
    );
  });

  const HEALTH_STATUS = '/components/schemas/Health/properties/status';

  it('are used where the values are', () => {
    const refOf = (schema: string, property: string): unknown =>
      SCHEMAS[schema]?.properties?.[property]?.$ref;
    expect([
      refOf('Problem', 'code'),
      refOf('Order', 'status'),
      refOf('SummaryRow', 'status'),
      refOf('OrderEvent', 'type'),
      refOf('PlaceOrder', 'currency'),
    ]).toEqual(
      ['ProblemCode', 'OrderStatus', 'OrderStatus', 'OrderEventType', 'Currency'].map(
        (name) => `#/components/schemas/${name}`,
      ),
    );
  });
});

describe('requests and responses', () => {
  it('share no object: requests are closed, responses are open', () => {
    const requests = [...REQUEST_SCHEMAS].filter(isObject);
    const responses = [...RESPONSE_SCHEMAS].filter(isObject);
    expect(requests.filter((name) => RESPONSE_SCHEMAS.has(name))).toEqual([]);
    const isClosed = (name: string): boolean => SCHEMAS[name]?.additionalProperties === false;
    expect([requests.length > 5, responses.length > 5]).toEqual([true, true]);
    expect(requests.filter((name) => !isClosed(name))).toEqual([]);
    expect(responses.filter(isClosed)).toEqual([]);
  });

  it('have rules for every text of a request: length and characters', () => {
    const texts = [...REQUEST_SCHEMAS].flatMap((name) =>
      nodesIn(SCHEMAS[name], name).filter(({ node }) => [node.type].flat().includes('string')),
    );
    expect(texts.length).toBeGreaterThan(10);
    const lax = texts.filter(
      ({ node }) => !node.enum && (node.maxLength === undefined || node.pattern === undefined),
    );
    expect(lax.map(({ place }) => place)).toEqual([]);
  });

  it.each([
    ['a\0b', false],
    ['a\u001bb', false],
    ['a\u0085b', false],
    ['a\nb', false],
    ['käse 🐙', true],
  ])('a documented text may be %j: %s', (text, isAllowed) => {
    const { sku } = SCHEMAS.OrderItemInput?.properties ?? {};
    expect(new RegExp(sku?.pattern ?? '', 'u').test(text)).toBe(isAllowed);
  });

  it.each([
    ['a\nb\tc', true],
    ['a\rb', false],
  ])('a documented note may be %j: %s', (text, isAllowed) => {
    const { note } = SCHEMAS.PlaceOrder?.properties ?? {};
    expect(new RegExp(note?.pattern ?? '', 'u').test(text)).toBe(isAllowed);
  });

  it('have patterns that generators can write into a program', () => {
    const patterns = nodesIn(DOCUMENT).flatMap(({ node }) => node.pattern ?? []);
    expect(patterns.filter((pattern) => pattern.includes('\\u'))).toEqual([]);
  });
});

describe('responses with problems', () => {
  it('every operation has a default', () => {
    const defaults = OPERATIONS.map(({ responses }) => responses.default?.$ref);
    expect(new Set(defaults)).toEqual(new Set(['#/components/responses/UnexpectedProblem']));
  });

  it('have names that do not depend on what else a route has', () => {
    const NAMES: Readonly<Record<string, string>> = {
      'malformed-url malformed-json validation-failed': 'BadRequestBody',
      'malformed-url validation-failed': 'BadRequest',
      'overloaded database-unavailable cache-unavailable': 'UnavailableForWrites',
      'overloaded database-unavailable': 'Unavailable',
      '': 'UnexpectedProblem',
    };
    const pascalCase = (code: string): string =>
      code.replace(/(^|-)([a-z])/g, (_, __, letter: string) => letter.toUpperCase());
    const expected = Object.values(RESPONSES).map((response) => {
      const codes = codesOf(response);
      return NAMES[codes.join(' ')] ?? pascalCase(codes.join('Or-'));
    });
    expect(Object.keys(RESPONSES)).toEqual(expected);
    expect(expected.filter((name) => name.includes('Or-'))).toEqual([]);
  });

  it('have Retry-After exactly where one of their problems is sent with it', () => {
    const responses = OPERATIONS.flatMap((operation) => Object.values(operation.responses));
    const wrong = responses.filter((response) => {
      const isSent = codesOf(response).some((code) =>
        problemCatalogue.get(code)?.headers?.includes('Retry-After'),
      );
      return isSent !== 'Retry-After' in (resolved(response).headers ?? {});
    });
    expect(responses.length).toBeGreaterThan(100);
    expect(wrong).toEqual([]);
  });
});

describe('headers', () => {
  it('Location and Link are relative references, and say so', () => {
    for (const name of ['Location', 'Link']) {
      expect(HEADERS[name]?.description).toMatch(/relative reference .*resolve it against the URL/);
    }
    expect(HEADERS.Location?.schema.format).toBe('uri-reference');
  });

  it.each([
    ['k', true],
    ['8e03978e-40d5-43e8-bc93-6894a57f9324', true],
    ['a "b" c', true],
    ['', false],
    ['"open', false],
    [' a', false],
    ['ключ', false],
  ])('an Idempotency-Key may be %j: %s', (key, isAllowed) => {
    const parameter = OPERATIONS.find(
      ({ operationId }) => operationId === 'placeOrder',
    )?.parameters.find(({ name }) => name === 'Idempotency-Key');
    const schema = parameter?.schema as Schema;
    expect(schema.maxLength).toBe(255);
    expect(new RegExp(schema.pattern ?? '').test(key)).toBe(isAllowed);
  });
});

describe('the export', () => {
  it('is text of lines, each as documented', () => {
    const operation = OPERATIONS.find(({ operationId }) => operationId === 'exportOrders');
    expect(operation?.responses[200]?.content?.['application/x-ndjson']).toEqual({
      schema: { type: 'string', contentMediaType: 'application/x-ndjson' },
      'x-item-schema': { $ref: '#/components/schemas/Order' },
    });
  });
});
