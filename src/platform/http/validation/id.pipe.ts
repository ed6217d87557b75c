/**
 * The id in a path, in lower case as the service issues it. Text that is not a UUID is the id of
 * nothing: 404, as for an id that does not exist.
 */
import type { PipeTransform } from '@nestjs/common';
import { problems } from '../problems/problem.js';
import { isId } from './faults.js';

export class IdPipe implements PipeTransform<string, string> {
  /** @throws Problem not-found */
  transform(value: string): string {
    if (!isId(value)) throw problems.notFound();
    return value.toLowerCase();
  }
}
