/**
 * The cache's side of HTTP reads: `Cache-Control: no-cache` in; Cache-Status (RFC 9211), a strong ETag and 304 out. The body's
 * own `version` is the entity tag, so that what is told and what is sent cannot differ.
 */
import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { map, type Observable } from 'rxjs';
import { type Outcome, type ReadContext, readContext } from './read-context.js';

const CACHE_STATUS: Readonly<Record<Outcome, string>> = {
  hit: 'holdfast; hit',
  miss: 'holdfast; fwd=miss; stored',
  request: 'holdfast; fwd=request',
  fenced: 'holdfast; fwd=bypass; detail=fenced',
  unavailable: 'holdfast; fwd=bypass; detail=unavailable',
  bypass: 'holdfast; fwd=bypass',
};

const asksForPrimary = (header: string | undefined): boolean =>
  header !== undefined && /(^|,)\s*no-cache\s*(,|=|$)/i.test(header);

/** If-None-Match is compared weakly: `W/"1"` is as good as `"1"` (RFC 9110, section 13.1.2). */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  if (header.trim() === '*') return true;
  return header.match(/"[^"]*"/g)?.some((tag) => tag === etag) ?? false;
}

const versionOf = (body: unknown): number | undefined => {
  const { version } = (body ?? {}) as { version?: unknown };
  return typeof version === 'number' ? version : undefined;
};

@Injectable()
export class CacheInterceptor implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const reply = context.switchToHttp().getResponse<FastifyReply>();
    if (request.method !== 'GET' && request.method !== 'HEAD') return next.handle();
    const read: ReadContext = { fresh: asksForPrimary(request.headers['cache-control']) };
    return readContext
      .run(read, () => next.handle())
      .pipe(map((body: unknown) => this.answer(body, read, request, reply)));
  }

  private answer(body: unknown, read: ReadContext, request: FastifyRequest, reply: FastifyReply): unknown {
    if (reply.sent) return body;
    if (read.outcome) void reply.header('Cache-Status', CACHE_STATUS[read.outcome]);
    if (!reply.hasHeader('Cache-Control')) void reply.header('Cache-Control', 'private, no-cache');
    const version = versionOf(body);
    if (version === undefined) return body;
    const etag = `"${version}"`;
    void reply.header('ETag', etag);
    if (!matches(request.headers['if-none-match'], etag)) return body;
    void reply.code(304);
    return undefined;
  }
}
