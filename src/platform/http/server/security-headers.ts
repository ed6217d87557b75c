/**
 * Security headers for browsers, with Helmet's values (helmetjs.github.io). Invariant: every
 * response that reaches a route or the 404 handler carries all of them.
 */
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

/** @param isTls whether this process itself serves HTTPS */
export function installSecurityHeaders(fastify: FastifyInstance, isTls: boolean): void {
  const policy = [...CONTENT_SECURITY_POLICY, ...(isTls ? TLS_POLICY : [])];
  const headers = {
    'content-security-policy': policy.join(';'),
    ...HEADERS,
    ...(isTls ? TLS_HEADERS : {}),
  };
  fastify.addHook('onRequest', (_, reply, done) => {
    void reply.headers(headers);
    done();
  });
}
