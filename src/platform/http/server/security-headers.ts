/**
 * Security headers for browsers, with Helmet's values (helmetjs.github.io). Invariant: every
 * response carries all of them, also one that is sent before there is a request.
 */
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { FastifyInstance } from 'fastify';

/** Scripts come from this service only. Swagger UI needs inline styles. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'self'",
  "base-uri 'none'",
  "font-src 'self'",
  "form-action 'self'",
  "frame-ancestors 'none'",
  "img-src 'self' data:",
  "object-src 'none'",
  "script-src 'self'",
  "script-src-attr 'none'",
  "style-src 'self' 'unsafe-inline'",
];

const HEADERS = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'origin-agent-cluster': '?1',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-dns-prefetch-control': 'off',
  'x-download-options': 'noopen',
  'x-frame-options': 'SAMEORIGIN',
  'x-permitted-cross-domain-policies': 'none',
  'x-xss-protection': '0',
} as const;

/** Without TLS these would make a browser ask for HTTPS, which nothing serves. */
const TLS_POLICY = ['upgrade-insecure-requests'];
const TLS_HEADERS = { 'strict-transport-security': 'max-age=31536000; includeSubDomains' } as const;

type Headers = Readonly<Record<string, string>>;

const PLAIN: Headers = {
  'content-security-policy': CONTENT_SECURITY_POLICY.join(';'),
  ...HEADERS,
};
const OVER_TLS: Headers = {
  'content-security-policy': [...CONTENT_SECURITY_POLICY, ...TLS_POLICY].join(';'),
  ...HEADERS,
  ...TLS_HEADERS,
};

/** The headers of a response that no hook sees. Of TLS only if this process itself serves it. */
export const securityHeadersFor = (socket: Duplex): Headers =>
  socket instanceof TLSSocket ? OVER_TLS : PLAIN;

export function installSecurityHeaders(fastify: FastifyInstance): void {
  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.headers(securityHeadersFor(request.raw.socket));
    done();
  });
}
