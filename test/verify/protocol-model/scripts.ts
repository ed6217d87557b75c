/**
 * The six scripts of the protocol over one key, as pure functions of what the key holds; what an ablation takes away is a
 * switch. Time is an order only: a fence's tokens stand in the order of their deadlines. It shares no code with the stores;
 * protocol-model.spec.ts walks it beside the MemoryStore, so that what is explored is what runs.
 */

/**
 * What a key holds. `author` is the writer whose row the entry shows, 0 for the row before all of them; `claim` the reader that
 * refreshes it, 0 for nobody.
 */
export type Cell =
  | { readonly is: 'absent' }
  | { readonly is: 'lease'; readonly reader: number }
  | {
      readonly is: 'entry';
      readonly author: number;
      readonly version: number;
      readonly none: boolean;
      readonly claim: number;
    }
  | { readonly is: 'fence'; readonly floor: number; readonly tokens: readonly number[] };

export type Entry = Extract<Cell, { is: 'entry' }>;

/** What the scripts do, each to be taken away by itself. */
export interface Rules {
  /** A fence remembers the newest version that it has seen. */
  readonly floor: boolean;
  /** A fence remembers who holds it; off: it is one flag, and whoever publishes lowers it. */
  readonly tokenSet: boolean;
  /** A publication replaces only an older entry. */
  readonly versionCompare: boolean;
  /** A publication deletes an older entry "no such row", instead of replacing it: a reader's has no version to compare. */
  readonly noneYields: boolean;
  /** A token past its deadline raises the floor above every version: nobody knows what its writer committed. */
  readonly expiryRaisesFloor: boolean;
  /** So does a publication without an entry over others' fences: nobody knows how new what it announces is. */
  readonly absenceRaisesFloor: boolean;
}

export const ABSENT: Cell = { is: 'absent' };
/** A floor above every version: nothing can be published over it. */
export const BEYOND = 7;
/** The one "token" of a fence that is only a flag. */
const FLAG = 1;

/** Where the key is absent, it is this reader's from now on; else it stays. */
export const lease = (cell: Cell, reader: number): Cell =>
  cell.is === 'absent' ? { is: 'lease', reader } : cell;

/** Only over one's own lease. */
export const fill = (cell: Cell, reader: number, entry: Entry): Cell =>
  cell.is === 'lease' && cell.reader === reader ? entry : cell;

/** A refresher's token goes into the entry that it has read, if nobody's is there. */
export const claim = (cell: Cell, reader: number): Cell =>
  cell.is === 'entry' && !cell.none && cell.claim === 0 ? { ...cell, claim: reader } : cell;

/** Only over the entry that one has claimed. */
export const replace = (cell: Cell, reader: number, entry: Entry): Cell =>
  cell.is === 'entry' && cell.claim === reader ? entry : cell;

/** A fence again is a later deadline. */
export function fence(rules: Rules, cell: Cell, token: number): Cell {
  if (!rules.tokenSet) return { is: 'fence', floor: floorUnder(rules, cell), tokens: [FLAG] };
  const others = cell.is === 'fence' ? cell.tokens.filter((held) => held !== token) : [];
  return { is: 'fence', floor: floorUnder(rules, cell), tokens: [...others, token] };
}

/** `entry` undefined: a publication that leaves the key absent (pointers and collections). */
export function publish(rules: Rules, cell: Cell, token: number, entry: Entry | undefined): Cell {
  if (cell.is === 'fence') {
    const others = rules.tokenSet ? cell.tokens.filter((held) => held !== token) : [];
    const unknown = rules.absenceRaisesFloor ? BEYOND : 0;
    const floor = rules.floor ? Math.max(cell.floor, entry?.version ?? unknown) : 0;
    if (others.length > 0) return { is: 'fence', floor, tokens: others };
    const mine = !rules.tokenSet || cell.tokens.includes(token);
    return entry && mine && entry.version >= cell.floor ? entry : ABSENT;
  }
  if (cell.is !== 'entry' || !entry) return ABSENT;
  if (rules.versionCompare && entry.version <= cell.version) return cell;
  return rules.noneYields && cell.none ? ABSENT : entry;
}

export function unfence(rules: Rules, cell: Cell, token: number): Cell {
  if (cell.is !== 'fence') return cell;
  const others = rules.tokenSet ? cell.tokens.filter((held) => held !== token) : [];
  return others.length > 0 ? { ...cell, tokens: others } : ABSENT;
}

/** The first token's deadline has passed. */
export function expire(rules: Rules, cell: Extract<Cell, { is: 'fence' }>): Cell {
  const [, ...rest] = cell.tokens;
  if (rest.length === 0) return ABSENT;
  return { is: 'fence', floor: rules.expiryRaisesFloor ? BEYOND : cell.floor, tokens: rest };
}

function floorUnder(rules: Rules, cell: Cell): number {
  if (!rules.floor) return 0;
  return cell.is === 'fence' ? cell.floor : cell.is === 'entry' ? cell.version : 0;
}
