/**
 * What tells a browser to trust an answer with as little as it needs: Helmet's set (helmetjs.github.io), as one table made at
 * the start. Invariant: every answer that reaches a route or the 404 carries all of them.
 */
import type { FastifyInstance } from 'fastify';

/** Scripts are the service's own, and Swagger UI may style itself inline. */
const POLICY = [
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

/** What only holds over TLS. */
const TLS_HEADERS = { 'strict-transport-security': 'max-age=31536000; includeSubDomains' } as const;

/** @param tls whether this process itself speaks HTTPS */
export function installSecurityHeaders(fastify: FastifyInstance, tls: boolean): void {
  const headers = {
    'content-security-policy': [...POLICY, ...(tls ? ['upgrade-insecure-requests'] : [])].join(';'),
    ...HEADERS,
    ...(tls ? TLS_HEADERS : {}),
  };
  fastify.addHook('onRequest', (_, reply, done) => {
    void reply.headers(headers);
    done();
  });
}
