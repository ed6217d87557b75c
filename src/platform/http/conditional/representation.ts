/** Response bodies of rows that are serialized at most once. */
import type { CachedRow } from '../../cache/cached.decorator.js';

/** A response body that makes its JSON itself. */
export abstract class JsonBody {
  abstract readonly json: string;
}

/**
 * A row as the API shows it (a representation, RFC 9110, section 3.2), serialized at most once.
 * Invariant: cached rows are shared and never change, so neither does the text.
 */
export class Representation extends JsonBody {
  private text: string | undefined;

  /**
   * @param version becomes the entity tag
   * @param view makes the object that the client gets
   */
  constructor(
    readonly version: number,
    private readonly view: () => object,
  ) {
    super();
  }

  get json(): string {
    this.text ??= JSON.stringify(this.view());
    return this.text;
  }
}

/** A function that returns the representation of a row: the same one for the same row object. */
export function represent<E extends CachedRow>(
  view: (row: E) => object,
): (row: E) => Representation {
  const representations = new WeakMap<E, Representation>();
  return (row) => {
    const known = representations.get(row);
    if (known) return known;
    const created = new Representation(row.version, () => view(row));
    representations.set(row, created);
    return created;
  };
}
