/**
 * `@IfMatchHeader()`: hands a controller the request's If-Match (RFC 9110, section 13.1.1), to
 * compare with the version that the change would replace.
 */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { problems } from '../problems/problem.js';
import {
  type EntityTags,
  entityTagOf,
  isEntityTagList,
  matchesStrongly,
  parseEntityTags,
} from './entity-tag.js';

/** The versions that a request accepts as the current one. */
export class IfMatch {
  /** @param tags undefined when the header is absent */
  constructor(private readonly tags: EntityTags | undefined) {}

  /**
   * For requests that may omit If-Match.
   * @throws Problem version-mismatch
   */
  check(version: number): void {
    if (this.tags === undefined) return;
    const current = entityTagOf(version);
    if (!matchesStrongly(this.tags, current)) {
      const detail = `The entity tag is now ${current}; read the object again and decide again`;
      throw problems.versionMismatch(detail, { headers: { ETag: current } });
    }
  }

  /**
   * For requests that must send If-Match.
   * @throws Problem precondition-required, version-mismatch
   */
  require(version: number): void {
    if (this.tags === undefined) throw problems.preconditionRequired();
    this.check(version);
  }
}

/** @throws Problem if-match-malformed */
export const IfMatchHeader = createParamDecorator(
  (_: unknown, context: ExecutionContext): IfMatch => {
    const header = context.switchToHttp().getRequest<FastifyRequest>().headers['if-match'];
    if (header === undefined) return new IfMatch(undefined);
    // As a version that does not match, it would be 412 however often the client reads again.
    if (!isEntityTagList(header)) throw problems.ifMatchMalformed();
    return new IfMatch(parseEntityTags(header));
  },
);
