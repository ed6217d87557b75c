/**
 * `@CurrentReadContext()`: hands a controller the request's ReadContext. It says whether the reads
 * may use the cache, and collects how they were answered. cache-headers.ts sends that outcome.
 */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { ReadContext } from '../../cache/read/read-context.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Created at its first use. Absent on requests that read nothing through the cache. */
    readContext?: ReadContext;
  }
}

/** `Cache-Control: no-cache`, alone or in a list of directives. */
const NO_CACHE = /(^|,)\s*no-cache\s*(,|=|$)/i;

/** The same {@link ReadContext} for all reads of a request. */
export const CurrentReadContext = createParamDecorator(
  (_: unknown, context: ExecutionContext): ReadContext => {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const asksForPrimary = NO_CACHE.test(request.headers['cache-control'] ?? '');
    request.readContext ??= new ReadContext(asksForPrimary);
    return request.readContext;
  },
);
