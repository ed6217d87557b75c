/**
 * The six scripts of the protocol over one key, as pure functions of what the key holds; what an
 * ablation takes away is a switch. Time is an order only: a fence's tokens stand in the order of
 * their deadlines. It shares no code with the stores; scripts.spec.ts walks it beside the
 * MemoryStore, so that what is explored is what runs.
 */

/** What a key holds. Readers and writers are numbered from 1. */
export type Cell = Absent | Lease | Entry | Fence;

interface Absent {
  readonly is: 'absent';
}

interface Lease {
  readonly is: 'lease';
  readonly reader: number;
}

export interface Entry {
  readonly is: 'entry';
  /** The writer whose row it shows; 0: the row before all writers. */
  readonly author: number;
  readonly version: number;
  /** A negative entry: there is no such row. */
  readonly none: boolean;
  /** The reader that refreshes it; 0: nobody. */
  readonly claim: number;
}

export interface Fence {
  readonly is: 'fence';
  readonly floor: number;
  readonly tokens: readonly number[];
}

/** What the scripts do, each to be taken away by itself. */
export interface ScriptRules {
  /** A fence remembers the newest version that it has seen. */
  readonly floor: boolean;
  /** A fence remembers its writers; off: it is one flag, which any publication lowers. */
  readonly tokenSet: boolean;
  /** A publication replaces only an older entry. */
  readonly versionCompare: boolean;
  /**
   * A publication deletes an older negative entry instead of replacing it: what a reader found
   * missing has no version to compare.
   */
  readonly noneYields: boolean;
  /**
   * A token past its deadline raises the floor above every version: nobody knows what its writer
   * committed.
   */
  readonly expiryRaisesFloor: boolean;
  /**
   * So does a publication of absence over others' fences: nobody knows which version it stands for.
   */
  readonly absenceRaisesFloor: boolean;
}

export const ABSENT: Cell = { is: 'absent' };
/** A floor above every version: nothing can be published over it. */
export const BEYOND = 7;
/** The one "token" of a fence that is only a flag. */
const FLAG = 1;

/** Leases an absent key to `reader`; any other key stays as it is. */
export const lease = (cell: Cell, reader: number): Cell =>
  cell.is === 'absent' ? { is: 'lease', reader } : cell;

/** Stores `entry` over a lease of `reader`. */
export const fill = (cell: Cell, reader: number, entry: Entry): Cell =>
  cell.is === 'lease' && cell.reader === reader ? entry : cell;

/** Writes a refresher's token into an entry that has none. */
export const claim = (cell: Cell, reader: number): Cell =>
  cell.is === 'entry' && !cell.none && cell.claim === 0 ? { ...cell, claim: reader } : cell;

/** Stores `entry` in the place of the entry that `reader` has claimed. */
export const replace = (cell: Cell, reader: number, entry: Entry): Cell =>
  cell.is === 'entry' && cell.claim === reader ? entry : cell;

/** Adds `token`, with the latest deadline. */
export function fence(rules: ScriptRules, cell: Cell, token: number): Fence {
  const floor = floorUnder(rules, cell);
  if (!rules.tokenSet) return { is: 'fence', floor, tokens: [FLAG] };
  const others = cell.is === 'fence' ? cell.tokens.filter((held) => held !== token) : [];
  return { is: 'fence', floor, tokens: [...others, token] };
}

/** @param entry undefined: a publication of absence, which leaves the key absent */
export function publish(
  rules: ScriptRules,
  cell: Cell,
  token: number,
  entry: Entry | undefined,
): Cell {
  if (cell.is === 'fence') return publishOverFence(rules, cell, token, entry);
  if (cell.is !== 'entry' || !entry) return ABSENT;
  if (rules.versionCompare && entry.version <= cell.version) return cell;
  return rules.noneYields && cell.none ? ABSENT : entry;
}

function publishOverFence(
  rules: ScriptRules,
  cell: Fence,
  token: number,
  entry: Entry | undefined,
): Cell {
  const others = rules.tokenSet ? cell.tokens.filter((held) => held !== token) : [];
  if (others.length > 0) {
    const unknown = rules.absenceRaisesFloor ? BEYOND : 0;
    const floor = rules.floor ? Math.max(cell.floor, entry?.version ?? unknown) : 0;
    return { is: 'fence', floor, tokens: others };
  }
  const hasToken = !rules.tokenSet || cell.tokens.includes(token);
  return entry && hasToken && entry.version >= cell.floor ? entry : ABSENT;
}

/** Removes `token` from a fence; any other key stays as it is. */
export function unfence(rules: ScriptRules, cell: Cell, token: number): Cell {
  if (cell.is !== 'fence') return cell;
  const others = rules.tokenSet ? cell.tokens.filter((held) => held !== token) : [];
  return others.length > 0 ? { ...cell, tokens: others } : ABSENT;
}

/** The deadline of the first token has passed. */
export function expire(rules: ScriptRules, cell: Fence): Cell {
  const [, ...rest] = cell.tokens;
  if (rest.length === 0) return ABSENT;
  return { is: 'fence', floor: rules.expiryRaisesFloor ? BEYOND : cell.floor, tokens: rest };
}

function floorUnder(rules: ScriptRules, cell: Cell): number {
  if (!rules.floor) return 0;
  if (cell.is === 'fence') return cell.floor;
  return cell.is === 'entry' ? cell.version : 0;
}

/**
 * The key in a few letters, for traces: `-`, `L1`, `V2`, `V2~1` (reader 1 refreshes it), `N0` (no
 * such row), `F1{1,2}` (a fence of writers 1 and 2 over version 1; `d`: of a deletion).
 */
export function showCell(cell: Cell, deletionToken: number): string {
  switch (cell.is) {
    case 'absent':
      return '-';
    case 'lease':
      return `L${cell.reader}`;
    case 'entry': {
      const claimed = cell.claim === 0 ? '' : `~${cell.claim}`;
      return `${cell.none ? 'N' : 'V'}${cell.version}${claimed}`;
    }
    case 'fence': {
      const tokens = cell.tokens.map((token) => (token === deletionToken ? 'd' : token));
      return `F${cell.floor}{${tokens.join(',')}}`;
    }
  }
}
