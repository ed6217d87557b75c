/**
 * Decorators for the fields of DTOs. Each is a validation rule (class-validator) and its OpenAPI
 * schema in one, so the two cannot differ. Text is strict: well-formed Unicode without control
 * characters, lengths in code points.
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

interface FieldOptions {
  readonly description?: string;
  readonly example?: unknown;
  /** May be absent. */
  readonly optional?: boolean;
  /** May be null. */
  readonly nullable?: boolean;
}

/** Bounds of a number, or of the length of a list. Inclusive. */
interface Bounds {
  readonly min: number;
  readonly max: number;
}

/**
 * A validation rule.
 * @param name the `code` in the problem, in kebab-case
 * @param message follows the name of the property, e.g. `must be a UUID`
 */
export const rule = (
  name: string,
  isValid: (value: unknown) => boolean,
  message: string,
): PropertyDecorator =>
  ValidateBy({
    name,
    validator: {
      validate: isValid,
      defaultMessage: ({ property }: ValidationArguments = {} as ValidationArguments) =>
        `${property} ${message}`,
    },
  });

function field(
  options: FieldOptions,
  schema: object,
  ...rules: PropertyDecorator[]
): PropertyDecorator {
  const { description, example, optional, nullable } = options;
  const documented = {
    ...schema,
    ...(description === undefined ? {} : { description }),
    ...(example === undefined ? {} : { example }),
    ...(nullable ? { nullable: true } : {}),
    required: !optional,
  } as ApiPropertyOptions;
  // An optional field may be absent. It may be null only when it is nullable, too.
  const conditions = [
    ...(optional ? [ValidateIf((_, value) => value !== undefined)] : []),
    ...(nullable ? [ValidateIf((_, value) => value !== null)] : []),
  ];
  return applyDecorators(ApiProperty(documented), ...conditions, ...rules);
}

/** C0 and C1 controls, and the line separators that terminals and log readers act on. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
/** The same without tab and line feed. */
const CONTROLS_IN_LINES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

export interface TextRules {
  /** In code points; 0 when absent. */
  readonly min?: number;
  /** In code points. */
  readonly max: number;
  /** Allows tab and line feed. */
  readonly multiline?: boolean;
}

/** Whether a value is well-formed text within its bounds, without control characters. */
export function isText(
  value: unknown,
  { min = 0, max, multiline = false }: TextRules,
): value is string {
  if (typeof value !== 'string') return false;
  // A code point has at most two UTF-16 units. Longer text is rejected without counting them.
  if (value.length > 2 * max || !value.isWellFormed()) return false;
  const length = [...value].length;
  const hasControls = (multiline ? CONTROLS_IN_LINES : CONTROLS).test(value);
  return length >= min && length <= max && !hasControls;
}

interface TextOptions extends FieldOptions, TextRules {
  readonly pattern?: RegExp;
  /** Describes the pattern in messages: follows `must be`. */
  readonly form?: string;
  /** The OpenAPI format. */
  readonly format?: string;
}

export function Text(options: TextOptions): PropertyDecorator {
  const { min = 0, max, multiline, pattern, form, format } = options;
  const exception = multiline ? ' other than line breaks' : '';
  const message = `must be a string of ${min} to ${max} characters without control characters`;
  const rules = [rule('text', (value) => isText(value, options), message + exception)];
  if (pattern) {
    const matches = (value: unknown): boolean => typeof value === 'string' && pattern.test(value);
    rules.push(rule('form', matches, `must be ${form ?? `of the form ${pattern.source}`}`));
  }
  const schema = {
    type: String,
    minLength: min,
    maxLength: max,
    ...(pattern ? { pattern: pattern.source } : {}),
    ...(format ? { format } : {}),
  };
  return field(options, schema, ...rules);
}

/** RFC 5321, section 4.5.3.1.3. */
const MAX_EMAIL_LENGTH = 254;

function isAsciiEmail(value: unknown): boolean {
  const isAscii = typeof value === 'string' && /^[\x21-\x7e]{3,254}$/.test(value);
  return isAscii && isEmail(value, { allow_utf8_local_part: false });
}

/** An email address of ASCII characters. Internationalized domains in their `xn--` form. */
export const Email = (options: FieldOptions): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'email', minLength: 3, maxLength: MAX_EMAIL_LENGTH },
    rule(
      'email',
      isAsciiEmail,
      `must be an email address of at most ${MAX_EMAIL_LENGTH} ASCII characters`,
    ),
  );

export const Integer = (options: FieldOptions & Bounds): PropertyDecorator =>
  field(
    options,
    { type: 'integer', format: 'int64', minimum: options.min, maximum: options.max },
    IsInt(),
    Min(options.min),
    Max(options.max),
  );

/** One of the words. */
export const OneOf = <const T extends string>(
  words: readonly T[],
  options: FieldOptions = {},
): PropertyDecorator => field(options, { type: String, enum: [...words] }, IsIn([...words]));

/** A list of at least one of the words, each once. */
export const SomeOf = <const T extends string>(
  words: readonly T[],
  options: FieldOptions = {},
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
    },
    IsArray(),
    ArrayMinSize(1),
    ArrayUnique(),
    IsIn([...words], { each: true }),
  );

const LIST_ITEM = Symbol('holdfast:list-item');

/** The class of the items of a {@link List}; undefined when the property is not one. */
export const itemOfList = (dto: Type, property: string): Type | undefined => {
  const item = Reflect.getMetadata(LIST_ITEM, dto.prototype as object, property) as
    (() => Type) | undefined;
  return item?.();
};

const isListOfObjects = (value: unknown): boolean =>
  Array.isArray(value) &&
  value.every((item) => typeof item === 'object' && item !== null && !Array.isArray(item));

/** A list of objects of one DTO class. */
export const List = (
  item: () => new () => object,
  options: FieldOptions & Bounds,
): PropertyDecorator =>
  applyDecorators(
    field(
      options,
      { type: () => item(), isArray: true, minItems: options.min, maxItems: options.max },
      IsArray(),
      ArrayMinSize(options.min),
      ArrayMaxSize(options.max),
      // ValidateNested accepts null and numbers in a list: they have no rules.
      rule('objects', isListOfObjects, 'must contain only objects'),
      ValidateNested({ each: true }),
    ),
    TypeOf(item),
    Reflect.metadata(LIST_ITEM, item),
  );

/** A whole number in a query string: digits only, without sign or exponent. */
export function QueryInteger(
  options: FieldOptions & Bounds & { readonly default?: number },
): PropertyDecorator {
  const { min, max, default: fallback } = options;
  const isInRange = (value: unknown): boolean =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
  const schema = {
    type: 'integer',
    minimum: min,
    maximum: max,
    ...(fallback === undefined ? {} : { default: fallback }),
  };
  return applyDecorators(
    field(
      { ...options, optional: true },
      schema,
      rule('integer', isInRange, `must be a whole number from ${min} to ${max}`),
    ),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value,
    ),
  );
}

/** A UUID of any version (RFC 9562) in its usual text form. */
export const isId = (value: unknown): value is string => typeof value === 'string' && isUUID(value);

/** A UUID, in lower case as the service issues it: ids are compared as text. */
export const Id = (options: FieldOptions = {}): PropertyDecorator =>
  applyDecorators(
    field(options, { type: String, format: 'uuid' }, rule('uuid', isId, 'must be a UUID')),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? value.toLowerCase() : value,
    ),
  );

const DAY = /^\d{4}-\d\d-\d\d$/;

/** A day of the calendar, e.g. `2026-01-31`. */
export function isDay(value: unknown): value is string {
  if (typeof value !== 'string' || !DAY.test(value)) return false;
  const midnight = new Date(`${value}T00:00:00.000Z`);
  if (Number.isNaN(midnight.getTime())) return false;
  // Date reads February 30 as March 2.
  const isRealDay = midnight.toISOString().startsWith(value);
  // PostgreSQL's calendar has no year 0.
  return isRealDay && !value.startsWith('0000');
}

/** The part of an RFC 3339 date-time after the day: time with seconds, and an offset. */
const TIME_OF_DAY =
  /^[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;

/** An RFC 3339 date-time. Date.parse drops fractions of a millisecond. */
export function isTime(value: unknown): value is string {
  if (typeof value !== 'string') return false;
  const [day, timeOfDay] = [value.slice(0, 10), value.slice(10)];
  return isDay(day) && TIME_OF_DAY.test(timeOfDay) && !Number.isNaN(Date.parse(value));
}

export const Time = (options: FieldOptions = {}): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'date-time' },
    rule('time', isTime, 'must be an RFC 3339 time with an offset, e.g. 2026-01-31T09:30:00.000Z'),
  );

export const Day = (options: FieldOptions = {}): PropertyDecorator =>
  field(
    options,
    { type: String, format: 'date' },
    rule('day', isDay, 'must be a day, e.g. 2026-01-31'),
  );
