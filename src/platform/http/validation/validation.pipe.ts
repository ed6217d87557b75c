/**
 * Turns each body and query into its DTO, or throws a `validation-failed` problem with all errors.
 * Invariant: values are not converted, except where a field's decorator does so, and names that the
 * DTO does not have are errors.
 */
import { type ArgumentMetadata, Injectable, type PipeTransform, type Type } from '@nestjs/common';
import { plainToInstance } from 'class-transformer';
import { getMetadataStorage, validate, type ValidationError } from 'class-validator';
import { itemOfList } from './fields.js';
import {
  type FieldError,
  MAX_FIELD_ERRORS,
  pointerTo,
  unknownProperty,
  validationFailed,
} from './validation-problem.js';

/** More than any list of this API may have. Further items of a list are not validated. */
const MAX_VALIDATED_ITEMS = 200;

@Injectable()
export class StrictValidationPipe implements PipeTransform {
  /** DTOs that accept an empty object: known after the first one. */
  private readonly validWhenEmpty = new WeakSet<Type>();

  transform(value: unknown, { type, metatype }: ArgumentMetadata): unknown {
    const isInput = type === 'body' || type === 'query';
    const isDto = metatype !== undefined && fieldsOf(metatype).size > 0;
    if (!isInput || !isDto) return value;
    // A missing body counts as empty: a DTO with required fields then names them.
    const input = value === undefined ? {} : value;
    const isEmpty = isObject(input) && Object.keys(input).length === 0;
    if (isEmpty && this.validWhenEmpty.has(metatype)) return new metatype();
    return this.validated(input, metatype).then((dto) => {
      if (isEmpty) this.validWhenEmpty.add(metatype);
      return dto;
    });
  }

  /** @throws Problem validation-failed */
  private async validated(input: unknown, dtoClass: Type): Promise<object> {
    if (!isObject(input)) {
      const detail = 'The request body must be a JSON object';
      throw validationFailed([{ pointer: '', code: 'object', detail }]);
    }
    const errors: FieldError[] = [];
    const dto = plainToInstance(dtoClass, copyKnown(dtoClass, input, '', errors)) as object;
    const found = await validate(dto, { forbidUnknownValues: true });
    errors.push(...fieldErrorsOf(found, ''));
    if (errors.length > 0) throw validationFailed(errors);
    return dto;
  }
}

const fieldsByDto = new Map<Type, ReadonlySet<string>>();

/** The properties of a DTO that have a rule. */
function fieldsOf(dtoClass: Type): ReadonlySet<string> {
  const known = fieldsByDto.get(dtoClass);
  if (known) return known;
  const rules = getMetadataStorage().getTargetValidationMetadatas(dtoClass, '', false, false);
  const fields = new Set(rules.map(({ propertyName }) => propertyName));
  fieldsByDto.set(dtoClass, fields);
  return fields;
}

/**
 * Copies the properties that the DTO has, and adds an error for each other one. The copy is
 * bounded: a body with a hundred thousand small objects costs no more than a valid one.
 */
function copyKnown(
  dtoClass: Type,
  input: object,
  parent: string,
  errors: FieldError[],
): Record<string, unknown> {
  const fields = fieldsOf(dtoClass);
  const copy: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(input)) {
    if (fields.has(name)) {
      copy[name] = copyValue(itemOfList(dtoClass, name), value, pointerTo(parent, name), errors);
    } else if (errors.length < MAX_FIELD_ERRORS) {
      errors.push(unknownProperty(parent, name, 'is not a property of this request'));
    }
  }
  return copy;
}

/** @param itemClass of the objects of a list; undefined for other properties */
function copyValue(
  itemClass: Type | undefined,
  value: unknown,
  pointer: string,
  errors: FieldError[],
): unknown {
  if (!Array.isArray(value)) return value;
  const items: unknown[] = value.slice(0, MAX_VALIDATED_ITEMS);
  if (!itemClass) return items;
  return items.map((item, index) =>
    isObject(item) ? copyKnown(itemClass, item, `${pointer}/${index}`, errors) : item,
  );
}

function fieldErrorsOf(errors: readonly ValidationError[], parent: string): FieldError[] {
  return errors.flatMap(({ property, value, constraints = {}, children = [] }) => {
    const pointer = pointerTo(parent, property);
    const violations = Object.entries(constraints).map(([rule, message]) => ({
      pointer,
      code: kebabCase(rule.replace(/^is(?=[A-Z])/, '')),
      detail: value === undefined ? `${property} is required` : message,
    }));
    return [...violations, ...fieldErrorsOf(children, pointer)];
  });
}

const kebabCase = (name: string): string =>
  name.replace(/[A-Z]/g, (letter, index: number) => (index > 0 ? '-' : '') + letter.toLowerCase());

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
