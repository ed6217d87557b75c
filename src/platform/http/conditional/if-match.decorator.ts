/** If-Match on changes (RFC 9110, section 13.1.1): strong comparison, entity tags that are versions in quotes. */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { problems } from './problem.js';

export const etagOf = (version: number): string => `"${version}"`;

/** Which versions the caller accepts as the current one. */
export class IfMatch {
  /** @param tags undefined: the header was not sent; '*': any version */
  constructor(private readonly tags: readonly string[] | '*' | undefined) {}

  /** @throws Problem version-mismatch */
  check(version: number): void {
    if (this.tags === undefined || this.tags === '*') return;
    if (!this.tags.includes(etagOf(version)))
      throw problems.versionMismatch(undefined, { headers: { ETag: etagOf(version) } });
  }

  /** @throws Problem precondition-required, version-mismatch */
  require(version: number): void {
    if (this.tags === undefined) throw problems.preconditionRequired();
    this.check(version);
  }
}

/** entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE (RFC 9110, section 8.8.3). A weak tag is kept as such and so never matches strongly. */
export function parseEntityTags(header: string | undefined): readonly string[] | '*' | undefined {
  if (header === undefined) return undefined;
  if (header.trim() === '*') return '*';
  return header.match(/(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/g) ?? [];
}

export const IfMatchHeader = createParamDecorator(
  (_: unknown, context: ExecutionContext): IfMatch => {
    const { headers } = context.switchToHttp().getRequest<FastifyRequest>();
    return new IfMatch(parseEntityTags(headers['if-match']));
  },
);
