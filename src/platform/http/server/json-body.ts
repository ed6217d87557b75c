/**
 * Reads request bodies: JSON in UTF-8, nothing else (RFC 8259). Stricter than JSON.parse, because
 * what follows walks and copies the value: bounded nesting, and no "__proto__" member.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { problems } from '../problems/problem.js';

/** Far above any body of this API, far below what overflows the stack of a recursive function. */
const MAX_JSON_DEPTH = 32;

/** Replaces Fastify's body parsers. */
export function installJsonBody(fastify: FastifyInstance): void {
  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser(
    /^application\/json\s*(;|$)/i,
    { parseAs: 'buffer' },
    (request, body, done) => {
      try {
        requireUncompressedUtf8(request);
        done(null, body.length === 0 ? undefined : parseJson(body as Buffer));
      } catch (error) {
        done(error as Error);
      }
    },
  );
}

/** @throws Problem unsupported-media-type */
function requireUncompressedUtf8({ headers }: FastifyRequest): void {
  const coding = headers['content-encoding'];
  const isCompressed = coding !== undefined && !/^identity$/i.test(coding);
  if (isCompressed) {
    const advice = { 'Accept-Encoding': 'identity' };
    const detail = 'The request body must not be compressed';
    throw problems.unsupportedMediaType(detail, { headers: advice });
  }
  const [, charset] = /charset\s*=\s*"?([^";\s]+)/i.exec(headers['content-type'] ?? '') ?? [];
  const isUtf8 = charset === undefined || /^utf-?8$/i.test(charset);
  if (!isUtf8) throw problems.unsupportedMediaType('The request body must be in UTF-8');
}

/** @throws Problem malformed-json, also for a "__proto__" member and for too deep nesting */
function parseJson(body: Buffer): unknown {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    if (isTooDeep(body)) throw new SyntaxError(`nested deeper than ${MAX_JSON_DEPTH} levels`);
    // A reviver makes parsing slow: only for text that may contain the name, also as escapes.
    const mayHaveProto = /__proto__|\\u00/i.test(text);
    return JSON.parse(text, mayHaveProto ? rejectProto : undefined) as unknown;
  } catch (error) {
    throw problems.malformedJson(undefined, { cause: error });
  }
}

function rejectProto(key: string, member: unknown): unknown {
  if (key === '__proto__') throw new SyntaxError('a member is named __proto__');
  return member;
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Scans bytes, so that nothing is built of an attack. In UTF-8, no other character contains the
 * bytes of brackets and quotes.
 */
function isTooDeep(json: Buffer): boolean {
  let depth = 0;
  let isInString = false;
  for (let index = 0; index < json.length; index++) {
    const byte = json[index];
    if (isInString) {
      const isEscape = byte === BACKSLASH;
      if (isEscape) index++;
      isInString = byte !== QUOTE;
      continue;
    }
    isInString = byte === QUOTE;
    const isOpening = byte === OPEN_BRACKET || byte === OPEN_BRACE;
    const isClosing = byte === CLOSE_BRACKET || byte === CLOSE_BRACE;
    if (isOpening) depth++;
    if (isClosing) depth--;
    if (depth > MAX_JSON_DEPTH) return true;
  }
  return false;
}
