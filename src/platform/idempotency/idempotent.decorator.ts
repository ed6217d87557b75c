/**
 * Reads the Idempotency-Key of a request, and computes the fingerprint that tells whether a later
 * request with the same key is a repetition. draft-ietf-httpapi-idempotency-key-header
 */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { idempotencyProblems } from './idempotency.errors.js';

const HEADER = 'idempotency-key';
const MAX_KEY_LENGTH = 255;
const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;
/** sf-string (RFC 9651, section 3.3.3); only `"` and `\` are escaped. */
const QUOTED_STRING = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/;
const STRAY_QUOTE = /^"|"$/;

export interface IdempotentRequest {
  /** Undefined: the request has no key, and runs like any other. */
  readonly key: string | undefined;
  /**
   * SHA-256 of method, path, body without secrets, and If-Match, in hexadecimal. Computed when it
   * is read: only of bodies that are valid.
   */
  readonly fingerprint: string;
}

export interface IdempotentOptions {
  /** Whether a request without a key is rejected. */
  readonly isRequired: boolean;
  /**
   * Members of the body that the fingerprint leaves out, because it is stored: a fast hash of a
   * password could be reversed. The service compares them in another way.
   */
  readonly secrets?: readonly string[];
}

/**
 * The request's key and fingerprint.
 * @throws Problem idempotency-key-required, idempotency-key-malformed
 */
export const Idempotent = createParamDecorator(
  ({ isRequired, secrets = [] }: IdempotentOptions, context: ExecutionContext) => {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const key = keyOf(request);
    if (key === undefined && isRequired) throw idempotencyProblems.required();
    const idempotentRequest: IdempotentRequest = {
      key,
      get fingerprint() {
        return fingerprintOf(request, secrets);
      },
    };
    return idempotentRequest;
  },
);

function keyOf({ headers, raw }: FastifyRequest): string | undefined {
  const header = headers[HEADER];
  if (header === undefined) return undefined;
  // Node joins repeated headers with a comma. The client sent no such key.
  const isRepeated = (raw.headersDistinct[HEADER]?.length ?? 0) > 1;
  if (isRepeated) throw idempotencyProblems.malformed();
  return parseKey(String(header).trim());
}

/**
 * The key `x` and the quoted key `"x"` are the same key.
 * @throws Problem idempotency-key-malformed
 */
function parseKey(header: string): string {
  const [, quoted] = QUOTED_STRING.exec(header) ?? [];
  const key = quoted === undefined ? header : quoted.replace(/\\(["\\])/g, '$1');
  const hasStrayQuote = quoted === undefined && STRAY_QUOTE.test(header);
  const isValid = PRINTABLE_ASCII.test(key) && key.length <= MAX_KEY_LENGTH && !hasStrayQuote;
  if (!isValid) throw idempotencyProblems.malformed();
  return key;
}

/** Bodies are compared as JSON values (RFC 8785): the order of members does not count. */
function fingerprintOf(
  { method, url, body, headers }: FastifyRequest,
  secrets: readonly string[],
): string {
  // An id is the same one in capitals. Everything else in a path is in small letters anyway.
  const path = url.split('?', 1).join().toLowerCase();
  const shown = withoutMembers(body, secrets);
  const identity = canonicalize([method, path, shown ?? null, headers['if-match'] ?? null]);
  return createHash('sha256').update(String(identity)).digest('hex');
}

function withoutMembers(body: unknown, names: readonly string[]): unknown {
  if (names.length === 0) return body;
  const members = Object.entries(body as object);
  return Object.fromEntries(members.filter(([name]) => !names.includes(name)));
}
