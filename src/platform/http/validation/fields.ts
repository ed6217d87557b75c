/**
 * Decorators for the fields of DTOs. Each is a validation rule (class-validator) and its OpenAPI
 * schema in one, so the two cannot differ. faults.ts has the rules and their messages.
 */
import { applyDecorators, type Type } from '@nestjs/common';
import { ApiProperty, type ApiPropertyOptions } from '@nestjs/swagger';
import { Transform, Type as TypeOf } from 'class-transformer';
import { ValidateBy, ValidateIf, ValidateNested } from 'class-validator';
import {
  ASCII,
  type Bounds,
  findDayFaults,
  findDuplicates,
  findEmailFaults,
  findIdFaults,
  findIntegerFaults,
  findListFaults,
  findObjectFaults,
  findQueryIntegerFaults,
  findTextFaults,
  findTimeFaults,
  findWordFaults,
  type FindFaults,
  MAX_EMAIL_LENGTH,
  type TextRules,
} from './faults.js';

interface FieldOptions {
  readonly description?: string;
  readonly example?: unknown;
  /** May be absent. */
  readonly optional?: boolean;
  /** May be null. */
  readonly nullable?: boolean;
}

/** What class-validator hands to validation.pipe.ts together with a violated rule. */
export interface RuleContext {
  readonly findFaults: FindFaults;
}

/**
 * The rule of a field. class-validator decides whether it applies; the pipe asks `findFaults` for
 * the problem's entries, because class-validator has one message for a whole list.
 */
export const rule = (findFaults: FindFaults): PropertyDecorator =>
  ValidateBy(
    {
      name: 'rule',
      validator: {
        validate: (value) => findFaults(value, '').length === 0,
        // class-validator passes the context on only together with a message.
        defaultMessage: () => 'is invalid',
      },
    },
    { context: { findFaults } satisfies RuleContext },
  );

function field(options: FieldOptions, schema: object, findFaults: FindFaults): PropertyDecorator {
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
  return applyDecorators(ApiProperty(documented), ...conditions, rule(findFaults));
}

interface TextOptions extends FieldOptions, TextRules {
  /** The OpenAPI format. */
  readonly format?: string;
}

/**
 * Text without control characters, in the OpenAPI document. It leaves U+2028 and U+2029 to the
 * description of the API: generators of clients break regular expressions with `\\u`.
 */
const CHARACTERS = '^[^\\x00-\\x1f\\x7f-\\x9f]*$';
/** The same with tab and line feed. */
const CHARACTERS_IN_LINES = '^[^\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]*$';

export function Text(options: TextOptions): PropertyDecorator {
  const { min = 0, max, multiline, pattern, format } = options;
  const characters = multiline ? CHARACTERS_IN_LINES : CHARACTERS;
  const schema = {
    type: String,
    minLength: min,
    maxLength: max,
    pattern: pattern?.source ?? characters,
    ...(format ? { format } : {}),
  };
  return field(options, schema, findTextFaults(options));
}

/** An email address of ASCII characters. Internationalized domains in their `xn--` form. */
export const Email = (options: FieldOptions): PropertyDecorator =>
  field(
    options,
    {
      type: String,
      format: 'email',
      minLength: 3,
      maxLength: MAX_EMAIL_LENGTH,
      pattern: ASCII.source,
    },
    findEmailFaults,
  );

const MAX_INT32 = 2 ** 31 - 1;

/**
 * The format of an integer (spec.openapis.org/registry/format). No value of this API exceeds
 * 2^53 - 1: `int64` would make clients read it as a BigInt, which JSON cannot carry back.
 */
const integerFormat = ({ max }: Bounds): string => (max <= MAX_INT32 ? 'int32' : 'double-int');

export const Integer = (options: FieldOptions & Bounds): PropertyDecorator => {
  const { min, max } = options;
  const schema = { type: 'integer', format: integerFormat(options), minimum: min, maximum: max };
  return field(options, schema, findIntegerFaults(options));
};

interface WordOptions extends FieldOptions {
  /** Of the schema that all fields with these words share in the OpenAPI document. */
  readonly name?: string;
  /** In place of a message that lists all words. */
  readonly findFaults?: FindFaults;
}

const namedWords = new Map<string, readonly string[]>();

/** Lists of words that have a schema of their own in the OpenAPI document, by its name. */
export const NAMED_WORDS: ReadonlyMap<string, readonly string[]> = namedWords;

/** One of the words. */
export function OneOf<const T extends string>(
  words: readonly T[],
  { name, findFaults = findWordFaults(words), ...options }: WordOptions = {},
): PropertyDecorator {
  if (name !== undefined) namedWords.set(name, words);
  return field(options, { type: String, enum: [...words] }, findFaults);
}

/** A list of at least one of the words, each once. */
export function SomeOf<const T extends string>(
  words: readonly T[],
  { name, ...options }: WordOptions = {},
): PropertyDecorator {
  if (name !== undefined) namedWords.set(name, words);
  // A list with a repeated word may have more elements than there are words: one mistake.
  const findWrongWords = findListFaults({ min: 1, max: Infinity }, findWordFaults(words));
  const findFaults: FindFaults = (value, name) => {
    const faults = findWrongWords(value, name);
    return faults.length > 0 ? faults : findDuplicates(value, name);
  };
  const schema = {
    type: String,
    isArray: true,
    enum: [...words],
    minItems: 1,
    maxItems: words.length,
    uniqueItems: true,
  };
  return field(options, schema, findFaults);
}

const LIST_ITEM = Symbol('holdfast:list-item');

/** The class of the items of a {@link List}; undefined when the property is not one. */
export const itemOfList = (dto: Type, property: string): Type | undefined => {
  const item = Reflect.getMetadata(LIST_ITEM, dto.prototype as object, property) as
    (() => Type) | undefined;
  return item?.();
};

/** A list of objects of one DTO class. */
export const List = (
  item: () => new () => object,
  options: FieldOptions & Bounds,
): PropertyDecorator =>
  applyDecorators(
    field(
      options,
      { type: () => item(), isArray: true, minItems: options.min, maxItems: options.max },
      findListFaults(options, findObjectFaults),
    ),
    ValidateNested({ each: true }),
    TypeOf(item),
    Reflect.metadata(LIST_ITEM, item),
  );

/** A whole number in a query string: digits only, without sign or exponent. */
export function QueryInteger(
  options: FieldOptions & Bounds & { readonly default?: number },
): PropertyDecorator {
  const { min, max, default: fallback } = options;
  const schema = {
    type: 'integer',
    format: integerFormat(options),
    minimum: min,
    maximum: max,
    ...(fallback === undefined ? {} : { default: fallback }),
  };
  return applyDecorators(
    field({ ...options, optional: true }, schema, findQueryIntegerFaults(options)),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value,
    ),
  );
}

const QUERY_LIST = Symbol('holdfast:query-list');

/** Whether a query parameter may be sent more than once: only a {@link QueryIds}. */
export const isQueryList = (dto: Type, property: string): boolean =>
  Reflect.hasMetadata(QUERY_LIST, dto.prototype as object, property);

/** Ids in a query string: one parameter with commas, or the parameter repeated. */
export const QueryIds = (
  options: FieldOptions & Bounds & { readonly schema: object },
): PropertyDecorator =>
  applyDecorators(
    field(
      { ...options, optional: true },
      { type: 'array', minItems: options.min, maxItems: options.max, ...options.schema },
      findListFaults(options, findIdFaults),
    ),
    Transform(({ value }: { value: unknown }) => splitIds(value)),
    Reflect.metadata(QUERY_LIST, true),
  );

const splitIds = (value: unknown): string[] | undefined =>
  value === undefined
    ? undefined
    : [value].flat().flatMap((text) => String(text).toLowerCase().split(','));

/** A UUID, in lower case as the service issues it: ids are compared as text. */
export const Id = (options: FieldOptions = {}): PropertyDecorator =>
  applyDecorators(
    field(options, { type: String, format: 'uuid' }, findIdFaults),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? value.toLowerCase() : value,
    ),
  );

export const Time = (options: FieldOptions = {}): PropertyDecorator =>
  field(options, { type: String, format: 'date-time' }, findTimeFaults());

export const Day = (options: FieldOptions = {}): PropertyDecorator =>
  field(options, { type: String, format: 'date' }, findDayFaults);
