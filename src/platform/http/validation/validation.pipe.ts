/**
 * Turns each body and query into its DTO, or throws a `validation-failed` problem with all of its
 * mistakes. Invariant: values are not converted, except where a decorator of a field does so, and
 * names that the DTO does not have are errors.
 */
import { type ArgumentMetadata, Injectable, type PipeTransform, type Type } from '@nestjs/common';
import { plainToInstance } from 'class-transformer';
import { getMetadataStorage, validate, type ValidationError } from 'class-validator';
import { isQueryList, itemOfList, type RuleContext } from './fields.js';
import {
  elementOf,
  type FieldError,
  MAX_FIELD_ERRORS,
  memberOf,
  type Place,
  ROOT,
  unknownParameter,
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
    const copy = type === 'query' ? copyQuery : copyBody;
    return this.validated(input, metatype, copy).then((dto) => {
      if (isEmpty) this.validWhenEmpty.add(metatype);
      return dto;
    });
  }

  /** @throws Problem validation-failed */
  private async validated(input: unknown, dtoClass: Type, copy: CopyInput): Promise<object> {
    if (!isObject(input)) {
      const detail = 'The request body must be a JSON object';
      throw validationFailed([{ pointer: '', code: 'object', detail }]);
    }
    const errors: FieldError[] = [];
    const dto = plainToInstance(dtoClass, copy(dtoClass, input, errors)) as object;
    const found = await validate(dto, { forbidUnknownValues: true });
    errors.push(...found.flatMap((error) => fieldErrorsOf(error, ROOT)));
    if (errors.length > 0) throw validationFailed(errors);
    return dto;
  }
}

/** Copies the properties that the DTO has, and adds an error for each other one. */
type CopyInput = (dtoClass: Type, input: object, errors: FieldError[]) => Record<string, unknown>;

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

const copyBody: CopyInput = (dtoClass, input, errors) => copyObject(dtoClass, input, ROOT, errors);

/**
 * The copy is bounded: a body with a hundred thousand small objects costs no more than a valid one.
 */
function copyObject(
  dtoClass: Type,
  input: object,
  place: Place,
  errors: FieldError[],
): Record<string, unknown> {
  const fields = fieldsOf(dtoClass);
  const copy: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(input)) {
    if (fields.has(name)) {
      copy[name] = copyValue(itemOfList(dtoClass, name), value, memberOf(place, name), errors);
    } else {
      addError(errors, () => unknownProperty(place, name, [...fields]));
    }
  }
  return copy;
}

/** @param itemClass of the objects of a list; undefined for other properties */
function copyValue(
  itemClass: Type | undefined,
  value: unknown,
  place: Place,
  errors: FieldError[],
): unknown {
  if (!Array.isArray(value)) return value;
  const items: unknown[] = value.slice(0, MAX_VALIDATED_ITEMS);
  if (!itemClass) return items;
  return items.map((item, index) =>
    isObject(item) ? copyObject(itemClass, item, elementOf(place, index), errors) : item,
  );
}

const copyQuery: CopyInput = (dtoClass, input, errors) => {
  const fields = fieldsOf(dtoClass);
  const copy: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(input)) {
    const place = memberOf(ROOT, name);
    if (!fields.has(name)) {
      addError(errors, () => unknownParameter(name, [...fields]));
    } else if (Array.isArray(value) && !isQueryList(dtoClass, name)) {
      const detail = `${place.name} must be sent only once`;
      addError(errors, () => ({ pointer: place.pointer, code: 'repeated', detail }));
    } else {
      copy[name] = copyValue(undefined, value, place, errors);
    }
  }
  return copy;
};

/** One more than fits into a problem: the problem then says that there are more. */
function addError(errors: FieldError[], create: () => FieldError): void {
  if (errors.length <= MAX_FIELD_ERRORS) errors.push(create());
}

/** @param parent of the property that the error is about */
function fieldErrorsOf(error: ValidationError, parent: Place): FieldError[] {
  const { property, target, children = [] } = error;
  const isElement = Array.isArray(target);
  const place = isElement ? elementOf(parent, Number(property)) : memberOf(parent, property);
  const ownErrors = ownErrorsOf(error, place);
  // class-validator also looks for the members of an item in what should be a list of items.
  const isOfWrongType = ownErrors.some(({ code }) => code === 'type');
  if (isOfWrongType) return ownErrors;
  return [...ownErrors, ...children.flatMap((child) => fieldErrorsOf(child, place))];
}

/** The mistakes in the value itself, without those in the members of its items. */
function ownErrorsOf({ value, contexts }: ValidationError, place: Place): FieldError[] {
  const { pointer, name } = place;
  const violated = Object.values(contexts ?? {}) as RuleContext[];
  if (value === undefined && violated.length > 0) {
    return [{ pointer, code: 'required', detail: `${name} is required` }];
  }
  const faults = violated.flatMap(({ findFaults }) => findFaults(value, name));
  return faults.map(({ code, detail, index }) => ({
    pointer: index === undefined ? pointer : elementOf(place, index).pointer,
    code,
    detail,
  }));
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
