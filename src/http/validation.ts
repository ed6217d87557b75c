/**
 * Input becomes a DTO or a `validation-failed` problem that names every fault: its place (JSON pointer, RFC 6901), the rule's
 * code and a sentence. Nothing is coerced, and what no DTO names is refused.
 */
import { type ArgumentMetadata, Injectable, type PipeTransform, ValidationPipe } from '@nestjs/common';
import type { ValidationError } from 'class-validator';
import { isId } from './fields.js';
import { type Problem, problems } from './problem.js';

export interface Fault {
  readonly pointer: string;
  readonly code: string;
  readonly detail: string;
}

const kebab = (name: string): string =>
  name.replace(/[A-Z]/g, (letter, at: number) => (at > 0 ? '-' : '') + letter.toLowerCase());
const escapePointer = (part: string): string => part.replace(/~/g, '~0').replace(/\//g, '~1');

/** Property names are the caller's: shown shortened and without what a log or terminal would act on. */
const shown = (name: string): string => [...name.replace(/[^\x20-\x7e]/g, '?')].slice(0, 64).join('');

function faultsOf(errors: readonly ValidationError[], parent = ''): Fault[] {
  return errors.flatMap(({ property, constraints, children }) => {
    const pointer = `${parent}/${escapePointer(shown(property))}`;
    const own = Object.entries(constraints ?? {}).map(([name, message]) =>
      name === 'whitelistValidation'
        ? { pointer, code: 'unknown-property', detail: `${shown(property)} is not a property of this request` }
        : { pointer, code: kebab(name.replace(/^is(?=[A-Z])/, '')), detail: message },
    );
    return [...own, ...faultsOf(children ?? [], pointer)];
  });
}

/** At most this many faults are listed; a body can hold thousands. */
const MOST_FAULTS = 50;

export function validationFailed(faults: readonly Fault[]): Problem {
  const errors = faults.slice(0, MOST_FAULTS);
  return problems.validationFailed(
    errors
      .map(({ detail }) => detail)
      .slice(0, 3)
      .join('; '),
    { extensions: { errors } },
  );
}

/** One parameter at fault, for what is checked outside DTOs. */
export const invalid = (name: string, code: string, detail: string): Problem =>
  validationFailed([{ pointer: `/${name}`, code, detail }]);

/** The pipe of every body and query. */
export class StrictValidationPipe extends ValidationPipe {
  constructor() {
    super({
      whitelist: true,
      forbidNonWhitelisted: true,
      forbidUnknownValues: true,
      transform: true,
      transformOptions: { enableImplicitConversion: false },
      validationError: { target: false, value: false },
      exceptionFactory: (errors) => validationFailed(faultsOf(errors)),
    });
  }

  override async transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    if (metadata.type !== 'body' || metadata.metatype === undefined)
      return super.transform(value, metadata) as Promise<unknown>;
    // No body is an empty one: a DTO that needs members then names them.
    const body = value === undefined ? {} : value;
    if (typeof body !== 'object' || body === null || Array.isArray(body)) {
      throw validationFailed([{ pointer: '', code: 'object', detail: 'The body must be a JSON object' }]);
    }
    return super.transform(body, metadata) as Promise<unknown>;
  }
}

/** A path parameter that is an id. What is no UUID names nothing: 404, as for any id that does not exist. */
@Injectable()
export class IdPipe implements PipeTransform<string, string> {
  transform(value: string): string {
    if (!isId(value)) throw problems.notFound();
    return value.toLowerCase();
  }
}
