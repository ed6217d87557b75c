/**
 * Security headers for browsers. Invariant: every response has those that protect data, also one
 * that is sent before there is a request. Pages have all of Helmet's besides (helmetjs.github.io):
 * they protect what a browser renders, and would be half of the bytes of an API's response.
 */
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { FastifyInstance } from 'fastify';

/** What is under these paths is never rendered (OWASP REST Security Cheat Sheet). */
const DATA_PATHS = /^\/(?:v1|health|metrics)\b/;

/** A browser that is shown data loads nothing, runs nothing and embeds it nowhere. */
const DATA_POLICY = [
  "default-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
];

/** Scripts come from this service only. Swagger UI needs inline styles. */
const PAGE_POLICY = [
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

const DATA_HEADERS = {
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
} as const;

const PAGE_HEADERS = {
  ...DATA_HEADERS,
  'cross-origin-opener-policy': 'same-origin',
  'origin-agent-cluster': '?1',
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

const withPolicy = (policy: readonly string[], headers: Headers): Headers => ({
  'content-security-policy': policy.join(';'),
  ...headers,
});

const PLAIN = {
  data: withPolicy(DATA_POLICY, DATA_HEADERS),
  page: withPolicy(PAGE_POLICY, PAGE_HEADERS),
} as const;
const OVER_TLS = {
  data: withPolicy(DATA_POLICY, { ...DATA_HEADERS, ...TLS_HEADERS }),
  page: withPolicy([...PAGE_POLICY, ...TLS_POLICY], { ...PAGE_HEADERS, ...TLS_HEADERS }),
} as const;

/**
 * The headers of a response that no hook sees: it is always data. Those of TLS only if this process
 * itself serves it.
 */
export const securityHeadersFor = (socket: Duplex, kind: keyof typeof PLAIN = 'data'): Headers =>
  (socket instanceof TLSSocket ? OVER_TLS : PLAIN)[kind];

export function installSecurityHeaders(fastify: FastifyInstance): void {
  fastify.addHook('onRequest', ({ url, raw: { socket } }, reply, done) => {
    void reply.headers(securityHeadersFor(socket, DATA_PATHS.test(url) ? 'data' : 'page'));
    done();
  });
}
