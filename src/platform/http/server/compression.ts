/**
 * Compresses bodies over 1 KiB for clients that accept it. Exempt are bodies with a secret: their
 * compressed size would tell something about it to somebody who can add text to the body (BREACH,
 * breachattack.com).
 */
import compress from '@fastify/compress';
import type {
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  HookHandlerDoneFunction,
} from 'fastify';
import { appendVary } from '../conditional/vary.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Whether a response of the route has a token, a key or another secret. */
    hasSecret?: boolean;
  }
}

/** The smallest body that is compressed, in bytes. */
const MIN_COMPRESSED_BYTES = 1_025;
/** As in Vary; @fastify/compress looks for it in lower case. */
const ACCEPT_ENCODING = 'accept-encoding';
const COMPRESSIBLE_TYPE = /json|text|javascript|xml/;

/** Call before any route is registered. */
export async function installCompression(fastify: FastifyInstance): Promise<void> {
  fastify.addHook('onRoute', (route) => {
    if (route.config?.hasSecret) route.compress = false;
    const isHead = route.method === 'HEAD';
    if (isHead) route.onSend = [route.onSend ?? [], omitUnknownLength].flat();
  });
  fastify.addHook('onRequest', (_, reply, done) => {
    // Also for responses that are not compressed: for another client they would be.
    appendVary(reply, ACCEPT_ENCODING);
    done();
  });
  await fastify.register(compress, {
    encodings: ['br', 'gzip'],
    threshold: MIN_COMPRESSED_BYTES,
    customTypes: COMPRESSIBLE_TYPE,
    globalDecompression: false,
  });
}

/**
 * The response to HEAD may have the length of the response to GET only if it is the same (RFC 9110,
 * section 8.6). It is known only after compressing.
 */
function omitUnknownLength(
  { headers }: FastifyRequest,
  reply: FastifyReply,
  _: unknown,
  done: HookHandlerDoneFunction,
): void {
  const isLarge = Number(reply.getHeader('content-length')) >= MIN_COMPRESSED_BYTES;
  const mayBeCompressed = isLarge && headers[ACCEPT_ENCODING] !== undefined;
  if (mayBeCompressed) void reply.removeHeader('content-length');
  done();
}
