/**
 * The vocabulary of DTO fields: each decorator is a rule (class-validator) and its documentation (OpenAPI) at once, so that
 * the two cannot disagree. Strings are strict: no coercion, well-formed Unicode, no control characters, lengths in code
 * points.
 */
import { applyDecorators, type Type } from '@nestjs/common';
import { ApiProperty, type ApiPropertyOptions } from '@nestjs/swagger';
import { Transform, Type as TypeOf } from 'class-transformer';
import {
  ArrayMaxSize,
  ArrayMinSize,
  ArrayUnique,
  isEmail,
  IsArray,
  IsIn,
  IsInt,
  isUUID,
  Max,
  Min,
  ValidateBy,
  ValidateIf,
  ValidateNested,
  type ValidationArguments,
} from 'class-validator';

interface Common {
  readonly description?: string;
  readonly example?: unknown;
  /** May be left out. */
  readonly optional?: boolean;
  /** May be null. */
  readonly nullable?: boolean;
}

/** A rule of ours, named in kebab-case as problems name it. */
export const rule = (
  name: string,
  test: (value: unknown) => boolean,
  message: string,
): PropertyDecorator =>
  ValidateBy({
    name,
    validator: {
      validate: test,
      defaultMessage: ({ property }: ValidationArguments = {} as ValidationArguments) =>
        `${property} ${message}`,
    },
  });

function field(
  common: Common,
  api: ApiPropertyOptions,
  ...rules: PropertyDecorator[]
): PropertyDecorator {
  const { description, example, optional, nullable } = common;
  const documented = {
    ...api,
    ...(description === undefined ? {} : { description }),
    ...(example === undefined ? {} : { example }),
    ...(nullable ? { nullable: true } : {}),
    required: !optional,
  } as ApiPropertyOptions;
  const absent = [
    // "optional" is about absence only: null is a value, and is refused unless the field is nullable.
    ...(optional ? [ValidateIf((_, value) => value !== undefined)] : []),
    ...(nullable ? [ValidateIf((_, value) => value !== null)] : []),
  ];
  return applyDecorators(ApiProperty(documented), ...absent, ...rules);
}

/** C0 and C1 controls and the line separators that logs and terminals act on; `multiline` allows tab and line feed. */
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
const CONTROL_BUT_LINES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

export interface TextRules {
  /** In code points. */
  readonly min?: number;
  readonly max: number;
  readonly multiline?: boolean;
}

/** Whether a value is text that may be stored and shown: well-formed, without control characters, within its bounds. */
export function isText(
  value: unknown,
  { min = 0, max, multiline = false }: TextRules,
): value is string {
  // No code point has more than two UTF-16 units: what is too long anyway is not even counted.
  if (typeof value !== 'string' || value.length > 2 * max || !value.isWellFormed()) return false;
  const length = [...value].length;
  return length >= min && length <= max && !(multiline ? CONTROL_BUT_LINES : CONTROL).test(value);
}

export function Text(
  options: Common &
    TextRules & { readonly pattern?: RegExp; readonly form?: string; readonly format?: string },
): PropertyDecorator {
  const { min = 0, max, pattern, form, format } = options;
  const rules = [
    rule(
      'text',
      (value) => isText(value, options),
      `must be a string of ${min} to ${max} characters without control characters${options.multiline ? ' other than line breaks' : ''}`,
    ),
  ];
  if (pattern)
    rules.push(
      rule(
        'form',
        (value) => typeof value === 'string' && pattern.test(value),
        `must be ${form ?? `of the form ${pattern.source}`}`,
      ),
    );
  const api = {
    type: String,
    minLength: min,
    maxLength: max,
    ...(pattern ? { pattern: pattern.source } : {}),
    ...(format ? { format } : {}),
  };
  return field(options, api as ApiPropertyOptions, ...rules);
}

/** An email address of ASCII characters (an internationalised domain in its "xn--" form), at most 254 of them (RFC 5321, 4.5.3.1.3). */
export const Email = (options: Common): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'email', minLength: 3, maxLength: 254 },
    rule(
      'email',
      (value) =>
        typeof value === 'string' &&
        /^[\x21-\x7e]{3,254}$/.test(value) &&
        isEmail(value, { allow_utf8_local_part: false }),
      'must be an email address of at most 254 ASCII characters',
    ),
  );

export const Integer = (
  options: Common & { readonly min: number; readonly max: number },
): PropertyDecorator =>
  field(
    options,
    {
      type: 'integer',
      format: 'int64',
      minimum: options.min,
      maximum: options.max,
    } as ApiPropertyOptions,
    IsInt(),
    Min(options.min),
    Max(options.max),
  );

export const OneOf = <const T extends string>(
  words: readonly T[],
  options: Common = {},
): PropertyDecorator => field(options, { type: String, enum: [...words] }, IsIn([...words]));

export const SomeOf = <const T extends string>(
  words: readonly T[],
  options: Common = {},
): PropertyDecorator =>
  field(
    options,
    {
      type: String,
      isArray: true,
      enum: [...words],
      minItems: 1,
      maxItems: words.length,
      uniqueItems: true,
    } as ApiPropertyOptions,
    IsArray(),
    ArrayMinSize(1),
    ArrayUnique(),
    IsIn([...words], { each: true }),
  );

const LIST_ITEM = Symbol('holdfast:list-item');

/** The class of the objects in this list of a DTO; undefined when the property is no {@link List}. */
export const itemOfList = (dto: Type, property: string): Type | undefined => {
  const item = Reflect.getMetadata(LIST_ITEM, dto.prototype as object, property) as
    (() => Type) | undefined;
  return item?.();
};

export const List = (
  item: () => new () => object,
  options: Common & { readonly min: number; readonly max: number },
): PropertyDecorator =>
  applyDecorators(
    field(
      options,
      {
        type: () => item(),
        isArray: true,
        minItems: options.min,
        maxItems: options.max,
      } as ApiPropertyOptions,
      IsArray(),
      ArrayMinSize(options.min),
      ArrayMaxSize(options.max),
      // Without this, a null or a number in the list would pass as "nothing to validate".
      rule(
        'objects',
        (value) =>
          Array.isArray(value) &&
          value.every((one) => typeof one === 'object' && one !== null && !Array.isArray(one)),
        'must hold objects only',
      ),
      ValidateNested({ each: true }),
    ),
    TypeOf(item),
    Reflect.metadata(LIST_ITEM, item),
  );

/** A whole number in a query string: digits only, no sign, no exponent. */
export const QueryInteger = (
  options: Common & { readonly min: number; readonly max: number; readonly default?: number },
): PropertyDecorator =>
  applyDecorators(
    field(
      { ...options, optional: true },
      {
        type: 'integer',
        minimum: options.min,
        maximum: options.max,
        ...(options.default === undefined ? {} : { default: options.default }),
      } as ApiPropertyOptions,
      rule(
        'integer',
        (value) =>
          Number.isInteger(value) &&
          (value as number) >= options.min &&
          (value as number) <= options.max,
        `must be a whole number from ${options.min} to ${options.max}`,
      ),
    ),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value,
    ),
  );

/** A UUID of any version (RFC 9562) in its usual text form. */
export const isId = (value: unknown): value is string => typeof value === 'string' && isUUID(value);

/** Kept in lower case, as ids are given out: they are compared as text. */
export const Id = (options: Common = {}): PropertyDecorator =>
  applyDecorators(
    field(options, { type: String, format: 'uuid' }, rule('uuid', isId, 'must be a UUID')),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? value.toLowerCase() : value,
    ),
  );

/** RFC 3339 date-time with an offset; seconds' fractions beyond milliseconds are cut. */
const TIME =
  /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;
export const isTime = (value: unknown): value is string =>
  typeof value === 'string' &&
  TIME.test(value) &&
  isRealDay(value.slice(0, 10)) &&
  !Number.isNaN(Date.parse(value));

const DAY = /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/;
const isRealDay = (value: string): boolean => {
  const date = new Date(`${value}T00:00:00.000Z`);
  // PostgreSQL's calendar has no year 0.
  return (
    !value.startsWith('0000') &&
    !Number.isNaN(date.getTime()) &&
    date.toISOString().startsWith(value)
  );
};
export const isDay = (value: unknown): value is string =>
  typeof value === 'string' && DAY.test(value) && isRealDay(value);

export const Time = (options: Common = {}): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'date-time' },
    rule('time', isTime, 'must be an RFC 3339 time with an offset, e.g. 2026-01-31T09:30:00.000Z'),
  );

export const Day = (options: Common = {}): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'date' },
    rule('day', isDay, 'must be a day, e.g. 2026-01-31'),
  );
