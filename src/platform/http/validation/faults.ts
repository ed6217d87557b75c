/**
 * What is wrong with a value, in words for people. Invariant: one mistake is one fault, which names
 * the field, what is wrong, and what to send instead.
 */
import { isEmail, isUUID } from 'class-validator';

export interface Fault {
  /** The violated rule, in kebab-case. Part of the API's contract. */
  readonly code: string;
  /** One clause without a full stop, e.g. `items[0].sku must not be empty`. */
  readonly detail: string;
  /** The element of a list that the fault is in. */
  readonly index?: number;
}

/**
 * The faults of a value; none when it is valid.
 * @param name of the field, as people read it, e.g. `items[0].sku`
 */
export type FindFaults = (value: unknown, name: string) => readonly Fault[];

/** Bounds of a number, or of the length of a list. Inclusive. */
export interface Bounds {
  readonly min: number;
  readonly max: number;
}

const VALID: readonly Fault[] = [];
const fault = (code: string, detail: string): readonly Fault[] => [{ code, detail }];

/** `null`, `a list`, `an object`, `a number` … */
function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

const wrongType = (name: string, wanted: string, value: unknown): readonly Fault[] =>
  fault('type', `${name} must be ${wanted}, not ${kindOf(value)}`);

/** `a, b or c` */
const orList = (words: readonly string[]): string =>
  words.join(', ').replace(/, ([^,]*)$/, ' or $1');

/** A rule with one possible fault: `<name> <message>`. */
export const findFault =
  (code: string, isValid: (value: unknown) => boolean, message: string): FindFaults =>
  (value, name) =>
    isValid(value) ? VALID : fault(code, `${name} ${message}`);

/** No C0 and C1 controls, and no line separators, which terminals and log readers act on. */
const WITHOUT_CONTROLS = /^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$/;
/** The same, but tab and line feed are allowed. */
const WITHOUT_CONTROLS_IN_LINES = /^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029]*$/;

export interface TextRules {
  /** In code points; 0 when absent. */
  readonly min?: number;
  /** In code points. */
  readonly max: number;
  /** Allows tab and line feed. */
  readonly multiline?: boolean;
  readonly pattern?: RegExp;
  /** Describes the pattern in messages: follows `must be`. */
  readonly form?: string;
}

/** Text is well-formed Unicode without control characters. Its length counts in code points. */
export function findTextFaults(rules: TextRules): FindFaults {
  const { multiline, pattern, form } = rules;
  const characters = multiline ? WITHOUT_CONTROLS_IN_LINES : WITHOUT_CONTROLS;
  const exception = multiline ? ' other than tabs and line feeds' : '';
  return (value, name) => {
    if (typeof value !== 'string') return wrongType(name, 'a string', value);
    if (hasWrongLength(value, rules)) {
      return fault('length', `${name} must ${describeLength(value, rules)}`);
    }
    if (!value.isWellFormed()) {
      return fault('unicode', `${name} must not contain half of a surrogate pair`);
    }
    if (!characters.test(value)) {
      const detail = `${name} must not contain control characters${exception}`;
      return fault('control-characters', detail);
    }
    const hasForm = pattern === undefined || pattern.test(value);
    return hasForm ? VALID : fault('form', `${name} must be ${form ?? pattern.source}`);
  };
}

function hasWrongLength(text: string, { min = 0, max }: TextRules): boolean {
  // A code point has at most two UTF-16 units. Longer text is rejected without counting them.
  if (text.length > 2 * max) return true;
  const length = [...text].length;
  return length < min || length > max;
}

/** Completes `must …`. */
function describeLength(text: string, { min = 0, max }: TextRules): string {
  if (text === '' && min === 1) return 'not be empty';
  return min === 0 ? `have at most ${max} characters` : `have ${min} to ${max} characters`;
}

/** RFC 5321, section 4.5.3.1.3. */
export const MAX_EMAIL_LENGTH = 254;
/** Printable, without spaces. */
export const ASCII = /^[\x21-\x7e]*$/;

/** An email address of ASCII characters. Internationalized domains in their `xn--` form. */
export const findEmailFaults: FindFaults = (value, name) => {
  if (typeof value !== 'string') return wrongType(name, 'a string', value);
  if (value.length > MAX_EMAIL_LENGTH) {
    return fault('length', `${name} must have at most ${MAX_EMAIL_LENGTH} characters`);
  }
  const isAddress = ASCII.test(value) && isEmail(value, { allow_utf8_local_part: false });
  const detail = `${name} must be an email address of ASCII characters, e.g. ada@example.com`;
  return isAddress ? VALID : fault('email', detail);
};

export const findIntegerFaults =
  ({ min, max }: Bounds): FindFaults =>
  (value, name) => {
    if (typeof value !== 'number') return wrongType(name, 'a whole number', value);
    if (!Number.isInteger(value)) return fault('integer', `${name} must be a whole number`);
    const isInRange = value >= min && value <= max;
    return isInRange ? VALID : fault('range', `${name} must be from ${min} to ${max}`);
  };

/** A number of a query string, after `toNumber` of fields.ts. */
export const findQueryIntegerFaults =
  ({ min, max }: Bounds): FindFaults =>
  (value, name) => {
    const isInRange = Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
    const detail = `${name} must be a whole number from ${min} to ${max}`;
    return isInRange ? VALID : fault('integer', detail);
  };

/** One of the words. */
export function findWordFaults(words: readonly string[]): FindFaults {
  const wanted = words.length === 1 ? `${words[0]}` : `one of ${orList(words)}`;
  return findFault('choice', (value) => words.includes(value as string), `must be ${wanted}`);
}

/** A list with a number of elements in the bounds; then the faults of each element. */
export const findListFaults =
  ({ min, max }: Bounds, findElementFaults: FindFaults): FindFaults =>
  (value, name) => {
    if (!Array.isArray(value)) return wrongType(name, 'a list', value);
    const hasWrongLength = value.length < min || value.length > max;
    const ofElements = value.flatMap((element: unknown, index) =>
      findElementFaults(element, `${name}[${index}]`).map((found) => ({ ...found, index })),
    );
    if (!hasWrongLength) return ofElements;
    const range = max === Infinity ? `at least ${min} element` : `${min} to ${max} elements`;
    return [...fault('count', `${name} must have ${range}`), ...ofElements];
  };

/** Each element at most once. The fault is in the repetition. */
export const findDuplicates: FindFaults = (value, name) =>
  (value as unknown[]).flatMap((element, index, list) =>
    list.indexOf(element) === index
      ? VALID
      : [{ code: 'duplicate', detail: `${name} names ${String(element)} twice`, index }],
  );

export const findObjectFaults = findFault(
  'object',
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  'must be an object',
);

/** A UUID of any version (RFC 9562) in its usual text form. */
export const isId = (value: unknown): value is string => typeof value === 'string' && isUUID(value);

export const findIdFaults = findFault('uuid', isId, 'must be a UUID');

const DAY = /^\d{4}-\d\d-\d\d$/;

/** A day of the calendar, e.g. `2026-01-31`. */
function isDay(value: unknown): value is string {
  if (typeof value !== 'string' || !DAY.test(value)) return false;
  const midnight = new Date(`${value}T00:00:00.000Z`);
  if (Number.isNaN(midnight.getTime())) return false;
  // Date reads February 30 as March 2.
  const isRealDay = midnight.toISOString().startsWith(value);
  // PostgreSQL's calendar has no year 0.
  return isRealDay && !value.startsWith('0000');
}

export const findDayFaults = findFault('day', isDay, 'must be a day, e.g. 2026-01-31');

/** The part of an RFC 3339 date-time after the day. Nothing here happens in a leap second. */
const TIME_OF_DAY =
  /^[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;

/** An RFC 3339 date-time. Date.parse drops fractions of a millisecond. */
export function isTime(value: unknown): value is string {
  if (typeof value !== 'string') return false;
  const [day, timeOfDay] = [value.slice(0, 10), value.slice(10)];
  return isDay(day) && TIME_OF_DAY.test(timeOfDay) && !Number.isNaN(Date.parse(value));
}

/** In a query string, a raw "+" is a space. */
const SPACE_FOR_PLUS = / (?=\d\d:\d\d$)/;

/** @param wanted what to send instead, e.g. `an RFC 3339 time` */
export function findTimeFaults(
  wanted = 'an RFC 3339 time with an offset, e.g. 2026-01-31T09:30:00.000Z',
): FindFaults {
  return (value, name) => {
    if (isTime(value)) return VALID;
    const isRawPlus = typeof value === 'string' && isTime(value.replace(SPACE_FOR_PLUS, '+'));
    const advice = isRawPlus ? '; write + as %2B' : '';
    return fault('time', `${name} must be ${wanted}${advice}`);
  };
}
