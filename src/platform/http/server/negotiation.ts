/**
 * Checks that every request must pass before its route runs: framing, header lines, encoding of the
 * URL, path, method, Accept. Each failure is a problem with the status of RFC 9110. The checks run
 * in the order of this file.
 */
import type { IncomingMessage } from 'node:http';
import accepts from 'accepts';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Problem, problems } from '../problems/problem.js';
import { AllowedMethods } from './allowed-methods.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Media types of the route's responses. JSON when absent. */
    produces?: readonly string[];
  }
}

interface Target {
  readonly path: string;
  /** Without the question mark; empty when there is none. */
  readonly query: string;
}

/** Checks that need no route, in this order. The first problem is the response. */
const FORM_CHECKS: readonly ((request: FastifyRequest, target: Target) => Problem | undefined)[] = [
  checkHost,
  checkQueryEncoding,
  checkPath,
];

/**
 * Installs the check of the framing. It must answer before Node's parser fails at the body, so it
 * comes before hooks that wait.
 * @param countRefused counts a refused request against the limit of its address
 */
export function installFramingCheck(
  fastify: FastifyInstance,
  countRefused: (request: FastifyRequest) => void,
): void {
  fastify.addHook('onRequest', (request, _, done) => {
    const problem = checkTransferCoding(request);
    if (problem) countRefused(request);
    done(problem);
  });
}

/** Installs the other checks. Call before any route is registered. */
export function installNegotiation(fastify: FastifyInstance): void {
  const methods = new AllowedMethods(fastify);
  fastify.addHook('onRequest', (request, reply, done) => {
    const target = targetOf(request.url);
    for (const check of FORM_CHECKS) {
      const problem = check(request, target);
      if (problem) return done(problem);
    }
    const { path } = target;
    if (methods.isMisspelled(request, path)) return done(problems.notFound());
    const isOptions = request.method === 'OPTIONS';
    if (!isOptions && methods.isServed(request, path)) return done(checkAccept(request, path));
    const allow = methods.allowOf(path);
    // Nest answers 404.
    if (allow === '') return done();
    if (isOptions) return void reply.code(204).header('Allow', allow).send();
    done(problems.methodNotAllowed(`${path} allows ${allow}`, { headers: { Allow: allow } }));
  });
}

function targetOf(url: string): Target {
  const mark = url.indexOf('?');
  if (mark < 0) return { path: url, query: '' };
  return { path: url.slice(0, mark), query: url.slice(mark + 1) };
}

const isOfApi = (path: string): boolean => path.startsWith('/v1/');

/** `uri-host [ ":" port ]` (RFC 9110, section 7.2; RFC 3986, section 3.2.2). Empty is allowed. */
const HOST = /^(?:[\w.~!$&'()*+;=%-]*|\[[\da-f:.]+\])(?::\d*)?$/i;

/** RFC 9112, section 3.2. Several lines arrive as one, with commas (server-options.ts). */
function checkHost({ headers, raw }: FastifyRequest): Problem | undefined {
  const { host } = headers;
  if (host === undefined) {
    const isMissing = raw.httpVersion === '1.1';
    return isMissing ? problems.malformedRequest('The header Host is missing') : undefined;
  }
  if (HOST.test(host)) return undefined;
  return problems.malformedRequest('The header Host must be one host with an optional port');
}

/** RFC 9112, section 6.1. Node's parser accepts a list that ends with `chunked`. */
function checkTransferCoding({ headers, raw }: FastifyRequest): Problem | undefined {
  const coding = headers['transfer-encoding'];
  if (coding === undefined) return undefined;
  // The rest of the connection may be framed in another way than Node reads it.
  const closing = { headers: { Connection: 'close' } };
  if (raw.httpVersion !== '1.1') {
    return problems.malformedRequest('HTTP/1.0 has no Transfer-Encoding', closing);
  }
  const isChunked = coding.trim().toLowerCase() === 'chunked';
  return isChunked ? undefined : problems.notImplemented(undefined, closing);
}

/** Fastify checks the encoding of paths, but passes on broken encoding in queries. */
function checkQueryEncoding(_: FastifyRequest, { query }: Target): Problem | undefined {
  return query.includes('%') && !isDecodable(query) ? problems.malformedUrl() : undefined;
}

function isDecodable(query: string): boolean {
  try {
    decodeURIComponent(query);
    return true;
  } catch {
    return false;
  }
}

/** Characters of a whole path. File systems, of which /docs reads one, have limits of their own. */
const MAX_PATH_LENGTH = 1_000;
/** Of one segment. The router limits parameters, which are in characters of decoded text. */
const MAX_SEGMENT_LENGTH = 200;
/** Controls, slashes and backslashes in percent-encoding, and `.` and `..` in any form. */
const UNUSABLE_SEGMENT = /%(?:[01][0-9a-f]|7f|2f|5c)|\\|^(?:\.|%2e){1,2}$/i;

/**
 * No route has empty segments, or segments that a file system would understand. A path may end with
 * a slash outside of the API: /docs/.
 */
function checkPath(_: FastifyRequest, { path }: Target): Problem | undefined {
  if (path.length > MAX_PATH_LENGTH) return problems.uriTooLong();
  const segments = path.slice(1).split('/');
  const isLastEmpty = segments.at(-1) === '';
  if (isLastEmpty && !isOfApi(path)) segments.pop();
  return segments.some(isUnusable) ? problems.notFound() : undefined;
}

const isUnusable = (segment: string): boolean =>
  segment === '' || segment.length > MAX_SEGMENT_LENGTH || UNUSABLE_SEGMENT.test(segment);

/** Only the API negotiates. Pages and probes answer whatever the client accepts. */
function checkAccept(request: FastifyRequest, path: string): Problem | undefined {
  if (!isOfApi(path) || isAcceptable(request)) return undefined;
  const produced = producedBy(request).join(' or ');
  return problems.notAcceptable(`This resource is available only as ${produced}`);
}

/** Every route may answer so. Swagger UI accepts only this where a success has no body (204). */
const PROBLEM_TYPE = 'application/problem+json';

const producedBy = ({ routeOptions }: FastifyRequest): readonly string[] =>
  routeOptions.config.produces ?? ['application/json'];

function isAcceptable(request: FastifyRequest): boolean {
  const { accept = '' } = request.headers;
  // What most clients send, without parsing it.
  if (accept === '' || accept === '*/*') return true;
  // Empty members of a list do not count (RFC 9110, section 5.6.1.2): then it asks for nothing.
  if (/^[\t ,]*$/.test(accept)) return true;
  const ranges = { headers: { accept: withoutParameters(accept) } };
  const types = [...producedBy(request), PROBLEM_TYPE];
  return accepts(ranges as IncomingMessage).type(types) !== false;
}

/** `;name=value` of a media range, with a token or a quoted string (RFC 9110, section 5.6.6). */
const PARAMETER = /;[\t ]*([\w!#$%&'*+.^`|~-]*)(?:=(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?[\t ]*/g;

/**
 * Media ranges match by type and subtype, whatever parameters they carry. Of these, only the weight
 * remains.
 */
const withoutParameters = (accept: string): string =>
  accept.replace(PARAMETER, (parameter, name: string) =>
    name.toLowerCase() === 'q' ? parameter : '',
  );
