/**
 * Values that a schema of the OpenAPI document allows, as arbitraries of fast-check, and the ways
 * to make a valid body invalid.
 */
import fc, { type Arbitrary } from 'fast-check';
import type { DocumentedApi, Schema } from '../../support/documented-api.js';

/** Text that is often read wrongly: quotes, markup, patterns, other scripts, emoji, directions. */
const PALETTE = [
  ...'abzAZ059 _-.~',
  ...`'"\\/%&?#;:<>{}[]()*+=@$|^!,`,
  ...['\t', '\n', '\u00a0', '\u00e9', 'e\u0301', '\u00df', '\u0130', '\u212a', '\u202e'],
  ...['\u200b', '\ufeff', '\u6f22', '\ud83d\ude00', '\ud83d\udc68\u200d\ud83d\udc69', '\uffff'],
];
const UUID_PATTERN = /^\^\[0-9A-Fa-f\]\{8\}/;
const MAX_LIST_ITEMS_USUALLY = 3;
/** New passwords begin so: no list has them, no name is in them, and a log can be searched. */
export const UNCOMMON_PASSWORD = 'kelp anchor 71 brass';

const isoTimes = fc
  .date({
    min: new Date('0001-01-03T00:00:00Z'),
    max: new Date('9999-12-29T00:00:00Z'),
    noInvalidDate: true,
  })
  .chain((date) => {
    const iso = date.toISOString();
    const seconds = iso.slice(0, 19);
    return fc.constantFrom(
      iso,
      `${seconds}Z`,
      iso.toLowerCase(),
      `${seconds}.123456789Z`,
      `${seconds}+14:00`,
      `${seconds}-23:59`,
    );
  });

const FORMATS: Readonly<Record<string, (schema: Schema) => Arbitrary<unknown>>> = {
  uuid: () => fc.uuid().chain((id) => fc.constantFrom(id, id.toUpperCase())),
  'date-time': () => isoTimes,
  date: () =>
    fc
      .date({ min: new Date('0001-01-01'), max: new Date('9999-12-31'), noInvalidDate: true })
      .map((date) => date.toISOString().slice(0, 10)),
  email: () => fc.uuid().map((id) => `f${id.slice(0, 13)}@example.com`),
  password: (schema) => {
    const max = Math.max(0, (schema.maxLength ?? 0) - UNCOMMON_PASSWORD.length);
    return texts({ ...schema, minLength: 0, maxLength: max }).map(
      (text) => UNCOMMON_PASSWORD + text,
    );
  },
};

const lengthOf = (text: string): number => [...text].length;

/** Text with the schema's pattern, often as short or as long as it allows. */
function texts({ pattern = '', minLength = 0, maxLength = 40 }: Schema): Arbitrary<string> {
  const expression = new RegExp(pattern);
  const units = PALETTE.filter((unit) => expression.test(unit));
  const single = units.filter((unit) => lengthOf(unit) === 1);
  if (single.length === 0) return fc.stringMatching(expression);
  const usual = fc.array(fc.constantFrom(...units), {
    minLength,
    maxLength: Math.min(maxLength, minLength + 12),
  });
  const unit = fc.constantFrom(...single);
  return fc.oneof(
    {
      weight: 6,
      arbitrary: usual.map((parts) => [...parts.join('')].slice(0, maxLength).join('')),
    },
    { weight: 1, arbitrary: unit.map((text) => text.repeat(maxLength)) },
    { weight: 1, arbitrary: unit.map((text) => text.repeat(minLength)) },
  );
}

export class SchemaValues {
  constructor(private readonly api: DocumentedApi) {}

  /** Values that the schema allows. */
  valid(reference: Schema): Arbitrary<unknown> {
    const schema = this.api.resolveSchema(reference);
    if (schema.enum) return fc.constantFrom(...schema.enum);
    const types = [schema.type ?? 'object'].flat();
    const arbitraries = types.map((type) => this.validOfType(type, schema));
    return arbitraries.length === 1
      ? (arbitraries[0] as Arbitrary<unknown>)
      : fc.oneof(...arbitraries);
  }

  private validOfType(type: string, schema: Schema): Arbitrary<unknown> {
    switch (type) {
      case 'null':
        return fc.constant(null);
      case 'boolean':
        return fc.boolean();
      case 'integer':
        return integers(schema);
      case 'array':
        return this.lists(schema);
      case 'string':
        return strings(schema);
      default:
        return this.objects(schema);
    }
  }

  private lists(schema: Schema): Arbitrary<unknown> {
    const { minItems = 0, maxItems = minItems + 5, uniqueItems, items = {} } = schema;
    const item = this.valid(items);
    const usual = Math.min(maxItems, minItems + MAX_LIST_ITEMS_USUALLY);
    if (uniqueItems) return fc.uniqueArray(item, { minLength: minItems, maxLength: usual });
    return fc.oneof(
      { weight: 8, arbitrary: fc.array(item, { minLength: minItems, maxLength: usual }) },
      { weight: 1, arbitrary: item.map((value) => Array<unknown>(maxItems).fill(value)) },
    );
  }

  private objects({ properties = {}, required = [] }: Schema): Arbitrary<unknown> {
    const members = Object.entries(properties).map(([name, schema]) => [name, this.valid(schema)]);
    return fc
      .record(Object.fromEntries(members) as Record<string, Arbitrary<unknown>>, {
        requiredKeys: [...required],
      })
      .map((record) => ({ ...record }));
  }
}

function integers({ minimum = 0, maximum = Number.MAX_SAFE_INTEGER }: Schema): Arbitrary<number> {
  return fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: minimum, max: maximum }) },
    { weight: 1, arbitrary: fc.constantFrom(minimum, maximum) },
  );
}

function strings(schema: Schema): Arbitrary<unknown> {
  const ofFormat = FORMATS[schema.format ?? ''];
  if (ofFormat) return ofFormat(schema);
  if (UUID_PATTERN.test(schema.pattern ?? '')) return fc.uuid();
  return texts(schema);
}

/** Where a value is in a body. */
type Path = readonly (string | number)[];

/** A change that makes a body invalid. */
export interface BodyFault {
  readonly name: string;
  /** @returns undefined when this body has no such place */
  readonly apply: (body: unknown) => unknown;
}

/** Every way to break one rule of the schema, once for each place. */
export function bodyFaults(api: DocumentedApi, schema: Schema, path: Path = []): BodyFault[] {
  const resolved = api.resolveSchema(schema);
  const at = `/${path.join('/')}`;
  const replacements = wrongValues(resolved).map(([name, value]) => ({
    name: `${at} ${name}`,
    apply: (body: unknown) => replaceAt(body, path, () => value),
  }));
  if (resolved.properties) {
    const { properties, required = [] } = resolved;
    return [
      ...replacements,
      {
        name: `${at} with an unknown member`,
        apply: (body) =>
          replaceAt(body, path, (value) => ({ ...(value as object), constructor: 'x' })),
      },
      ...required.map((name) => ({
        name: `${at} without ${name}`,
        apply: (body: unknown) => replaceAt(body, path, (value) => withoutMember(value, name)),
      })),
      ...Object.entries(properties).flatMap(([name, member]) =>
        bodyFaults(api, member, [...path, name]),
      ),
    ];
  }
  const ofItems = resolved.items ? bodyFaults(api, resolved.items, [...path, 0]) : [];
  return [...replacements, ...ofItems];
}

/** Values that the schema forbids, with names. */
function wrongValues(schema: Schema): (readonly [string, unknown])[] {
  const types = [schema.type ?? (schema.enum ? 'string' : 'object')].flat();
  const samples: Readonly<Record<string, unknown>> = {
    null: null,
    boolean: true,
    integer: 1,
    string: 'x',
    array: [],
    object: {},
  };
  const ofOtherTypes = Object.entries(samples).filter(([type]) => !types.includes(type));
  return [
    ...ofOtherTypes.map(([type, value]) => [`as ${type}`, value] as const),
    ...(types.includes('string') ? wrongTexts(schema) : []),
    ...(types.includes('integer') ? wrongNumbers(schema) : []),
    ...(types.includes('array') ? wrongLists(schema) : []),
  ];
}

function wrongTexts({ enum: words, minLength = 0, maxLength, format }: Schema) {
  const filler = format === 'email' ? 'a@b' : 'x';
  return [
    ['with NUL', 'valid long text \u0000 with a control character'],
    ['with half of a surrogate pair', 'valid long text \ud800'],
    ...(words ? [['of another word', 'nope']] : []),
    ...(minLength > 0 ? [['too short', 'x'.repeat(minLength - 1)]] : []),
    ...(maxLength === undefined ? [] : [['too long', filler.padEnd(maxLength + 1, 'x')]]),
    ...(format === 'email' ? [['without @', 'nobody.example.com']] : []),
  ] as [string, unknown][];
}

function wrongNumbers({ minimum, maximum }: Schema) {
  return [
    ['with a fraction', 1.5],
    ['as text', '1'],
    ['of enormous size', 1e308],
    ...(minimum === undefined ? [] : [['too small', minimum - 1]]),
    ...(maximum === undefined ? [] : [['too large', maximum + 1]]),
  ] as [string, unknown][];
}

function wrongLists({ minItems = 0, maxItems }: Schema) {
  return [
    ...(minItems > 0 ? [['without elements', []]] : []),
    ...(maxItems === undefined
      ? []
      : [['with too many elements', Array<unknown>(maxItems + 1).fill('user')]]),
  ] as [string, unknown][];
}

function withoutMember(value: unknown, name: string): unknown {
  const copy = { ...(value as Record<string, unknown>) };
  delete copy[name];
  return copy;
}

/** A copy with another value in this place; undefined when there is no such place. */
function replaceAt(root: unknown, path: Path, change: (value: unknown) => unknown): unknown {
  const [step, ...rest] = path;
  if (step === undefined) return change(root);
  if (typeof root !== 'object' || root === null) return undefined;
  const isMissingItem = Array.isArray(root) && !(step in root);
  if (isMissingItem) return undefined;
  const changed = replaceAt((root as Record<string | number, unknown>)[step], rest, change);
  if (changed === undefined) return undefined;
  const copy = (Array.isArray(root) ? [...(root as unknown[])] : { ...root }) as Record<
    string | number,
    unknown
  >;
  copy[step] = changed;
  return copy;
}
