/**
 * Reads request bodies: JSON in UTF-8, nothing else (RFC 8259). Stricter than JSON.parse: bounded
 * nesting, because what follows walks the value, no "__proto__" member, and no name twice in one
 * object, because another reader of the same body may take the other member.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Problem, problems } from '../problems/problem.js';
import { printable } from '../validation/validation-problem.js';

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

/** @throws Problem malformed-json, also for members that JSON.parse would lose or misuse */
function parseJson(body: Buffer): unknown {
  const text = decodeUtf8(body);
  const { depth, members } = measure(body);
  if (depth > MAX_JSON_DEPTH) {
    throw malformedJson(`must not be nested more than ${MAX_JSON_DEPTH} levels deep`);
  }
  const value = parseText(text);
  // JSON.parse keeps the last of several members with the same name.
  const hasLostMembers = countMembers(value) < members;
  if (hasLostMembers) throw malformedJson(`must not have ${repeatedMember(text)} twice`);
  return value;
}

/** @param what completes "The request body …" */
const malformedJson = (what: string, cause?: unknown): Problem =>
  problems.malformedJson(`The request body ${what}`, { cause });

function decodeUtf8(body: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(body);
  } catch (error) {
    throw malformedJson('must be in UTF-8', error);
  }
}

function parseText(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw malformedJson('is not valid JSON', error);
  }
}

const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * The depth of a JSON text, and how many members its objects have. Scans bytes, so that nothing is
 * built of an attack. In UTF-8, no other character contains the bytes of punctuation.
 */
function measure(json: Buffer): { depth: number; members: number } {
  let depth = 0;
  let level = 0;
  let members = 0;
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
    if (isOpening) level++;
    if (isClosing) level--;
    if (byte === COLON) members++;
    depth = Math.max(depth, level);
  }
  return { depth, members };
}

/** @throws Problem malformed-json for a member named "__proto__" */
function countMembers(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const isList = Array.isArray(value);
  if (!isList && Object.hasOwn(value, '__proto__')) {
    throw malformedJson('must not have a member named "__proto__"');
  }
  const parts: unknown[] = isList ? value : Object.values(value);
  return parts.reduce<number>(
    (count, part) => count + countMembers(part),
    isList ? 0 : parts.length,
  );
}

/** Strings and punctuation of a valid JSON text. */
const TOKEN = /"(?:[^"\\]|\\.)*"|[{}:]/g;

/** The first name that one object has twice, as JSON. For valid texts that have one. */
function repeatedMember(text: string): string {
  const objects: Set<unknown>[] = [];
  let lastString = '';
  for (const [token] of text.matchAll(TOKEN)) {
    const names = objects.at(-1);
    if (token === '{') {
      objects.push(new Set());
    } else if (token === '}') {
      objects.pop();
    } else if (token === ':' && names) {
      const name: unknown = JSON.parse(lastString);
      if (names.has(name)) return printable(lastString);
      names.add(name);
    } else {
      lastString = token;
    }
  }
  return 'a member';
}
