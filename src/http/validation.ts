/**
 * Input becomes a DTO or a `validation-failed` problem that names every fault: its place (JSON pointer, RFC 6901), the rule's
 * code and a sentence. Nothing is coerced, and what no DTO names is refused.
 */
import {
  type ArgumentMetadata,
  type CanActivate,
  type ExecutionContext,
  Injectable,
  type PipeTransform,
  type Type,
} from '@nestjs/common';
import { ROUTE_ARGS_METADATA } from '@nestjs/common/constants.js';
import { RouteParamtypes } from '@nestjs/common/enums/route-paramtypes.enum.js';
import { plainToInstance } from 'class-transformer';
import { getMetadataStorage, validate, type ValidationError } from 'class-validator';
import type { FastifyRequest } from 'fastify';
import { isId, itemOfList } from './fields.js';
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
const shown = (name: string): string =>
  [...name.replace(/[^\x20-\x7e]/g, '?')].slice(0, 64).join('');

function faultsOf(errors: readonly ValidationError[], parent = ''): Fault[] {
  return errors.flatMap(({ property, constraints, children }) => {
    const pointer = `${parent}/${escapePointer(shown(property))}`;
    const own = Object.entries(constraints ?? {}).map(([name, message]) => ({
      pointer,
      code: kebab(name.replace(/^is(?=[A-Z])/, '')),
      detail: message,
    }));
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

/** Longer than any list of this API may be: of a longer one, only so many elements are looked at. */
const LONGEST_LIST = 200;

/** The names that a DTO knows: those that have a rule. */
const namesOf = new Map<Type, ReadonlySet<string>>();
function namesIn(dto: Type): ReadonlySet<string> {
  const known = namesOf.get(dto);
  if (known) return known;
  const rules = getMetadataStorage().getTargetValidationMetadatas(dto, '', false, false);
  const names = new Set(rules.map(({ propertyName }) => propertyName));
  namesOf.set(dto, names);
  return names;
}

/**
 * What a DTO knows of a value, and a fault for each name that it does not know; "constructor" and the like are names as any
 * others. The copy is bounded, so that a body of a hundred thousand small objects costs no more than one that may be sent.
 */
function prune(dto: Type, value: object, parent: string, faults: Fault[]): Record<string, unknown> {
  const names = namesIn(dto);
  const known: Record<string, unknown> = {};
  for (const [name, member] of Object.entries(value)) {
    const pointer = `${parent}/${escapePointer(shown(name))}`;
    if (!names.has(name)) {
      if (faults.length < MOST_FAULTS)
        faults.push({
          pointer,
          code: 'unknown-property',
          detail: `${shown(name)} is not a property of this request`,
        });
      continue;
    }
    const item = itemOfList(dto, name);
    known[name] = Array.isArray(member)
      ? member
          .slice(0, LONGEST_LIST)
          .map((one: unknown, index) =>
            item && isObject(one) ? prune(item, one, `${pointer}/${index}`, faults) : one,
          )
      : member;
  }
  return known;
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The pipe of every body and query: the DTO of the handler's parameter, or a `validation-failed` that names every fault. */
@Injectable()
export class StrictValidationPipe implements PipeTransform {
  /** DTOs that nothing has to be said for. */
  private readonly validWhenEmpty = new WeakSet<Type>();

  transform(value: unknown, { type, metatype }: ArgumentMetadata): unknown {
    if (
      (type !== 'body' && type !== 'query') ||
      metatype === undefined ||
      namesIn(metatype).size === 0
    )
      return value;
    // No body is an empty one: a DTO that needs members then names them.
    const given = value === undefined ? {} : value;
    const isEmpty = isObject(given) && Object.keys(given).length === 0;
    if (isEmpty && this.validWhenEmpty.has(metatype)) return new metatype();
    return this.validated(given, metatype).then((dto) => {
      if (isEmpty) this.validWhenEmpty.add(metatype);
      return dto;
    });
  }

  /** @throws Problem validation-failed */
  private async validated(given: unknown, metatype: Type): Promise<object> {
    if (!isObject(given))
      throw validationFailed([
        { pointer: '', code: 'object', detail: 'The body must be a JSON object' },
      ]);
    const faults: Fault[] = [];
    const dto = plainToInstance(metatype, prune(metatype, given, '', faults)) as object;
    const options = { forbidUnknownValues: true, validationError: { target: false, value: false } };
    faults.push(...faultsOf(await validate(dto, options)));
    if (faults.length > 0) throw validationFailed(faults);
    return dto;
  }
}

/**
 * A route that reads no query has no parameters, and says so rather than do something else than the caller meant. To be the
 * last guard: a caller that may not use the route is told nothing about it.
 */
export class StrictQueryGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const { url, query } = context.switchToHttp().getRequest<FastifyRequest>();
    if (!url.includes('?') || !url.startsWith('/v1/')) return true;
    const names = Object.keys(query as object);
    if (names.length > 0 && !readsQuery(context)) {
      throw validationFailed(
        names.map((name) => ({
          pointer: `/${escapePointer(shown(name))}`,
          code: 'unknown-property',
          detail: `${shown(name)} is not a parameter of this route`,
        })),
      );
    }
    return true;
  }
}

/** Whether the handler has a `@Query()`, which Nest keeps as "<kind>:<index>" under the handler's name. */
function readsQuery(context: ExecutionContext): boolean {
  const parameters = Reflect.getMetadata(
    ROUTE_ARGS_METADATA,
    context.getClass(),
    context.getHandler().name,
  ) as Record<string, unknown> | undefined;
  return Object.keys(parameters ?? {}).some((kind) => kind.startsWith(`${RouteParamtypes.QUERY}:`));
}

/** A path parameter that is an id. What is no UUID names nothing: 404, as for any id that does not exist. */
@Injectable()
export class IdPipe implements PipeTransform<string, string> {
  transform(value: string): string {
    if (!isId(value)) throw problems.notFound();
    return value.toLowerCase();
  }
}
