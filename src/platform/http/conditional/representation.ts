/**
 * A row as the API shows it, already JSON. Cached rows are shared and never change, so the text is made once for each row that
 * was read and sent as it is from then on; the entity tag goes with it.
 */
import type { CachedRow } from './cached.decorator.js';

export class Representation {
  private text: string | undefined;

  constructor(
    readonly version: number,
    private readonly view: () => object,
  ) {}

  get json(): string {
    return (this.text ??= JSON.stringify(this.view()));
  }
}

/** Gives the representation of a row by `view`, the same one for the same row object. */
export function represent<E extends CachedRow>(
  view: (row: E) => object,
): (row: E) => Representation {
  const known = new WeakMap<E, Representation>();
  return (row) => {
    let representation = known.get(row);
    if (!representation) {
      representation = new Representation(row.version, () => view(row));
      known.set(row, representation);
    }
    return representation;
  };
}
