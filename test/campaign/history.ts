/**
 * What one round of the campaign leaves behind, as the nodes write it (one JSON array a line, so that a killed node's last
 * words survive it) and as the checker reads it. Times are microseconds of CLOCK_MONOTONIC, one clock for all processes of
 * a machine; a beginning is rounded down and an end up, which only widens intervals.
 *
 * A stamp is a number that one attempt to write puts into its rows: it tells whose content a reader saw.
 */
export type Line =
  /** A read of one row by id: begin, end, row, version (0: no such row), stamp. */
  | readonly ['r', number, number, string, number, number]
  /** Of many rows: begin, end, then row, version, stamp for each. */
  | readonly ['m', number, number, ...(string | number)[]]
  /** By an alias: begin, end, alias, row ('' for none), version, stamp. */
  | readonly ['a', number, number, string, string, number, number]
  /** Of a collection: begin, end, its owner, the stamps in it. */
  | readonly ['c', number, number, string, number[]]
  /** A write begins: stamp, time; for a placement also the owner and the idempotency key. */
  | readonly ['b', number, number, string?, string?]
  /** It is acknowledged: stamp, time, how (see {@link Flags}), row and version for each row; for a placement the owner. */
  | readonly ['w', number, number, string, ...(string | number)[]]
  | readonly ['p', number, number, string, string]
  /** It failed: stamp, time, why. */
  | readonly ['x', number, number, string]
  /** Counts since the last such line. */
  | readonly ['t', Readonly<Record<string, number>>];

/** `f`: committed without its fences. `p`: its publication failed and went the database's way. `h`: written by hand. */
export type Flags = string;

export const micros = (): number => Number(process.hrtime.bigint() / 1000n);
/** For ends: never earlier than what happened. */
export const microsUp = (): number => Number((process.hrtime.bigint() + 999n) / 1000n);

/** What a node does in one round, and on which rows. Keys as in the history: o0, h0, u0, s0. */
export interface Plan {
  readonly file: string;
  readonly seed: number;
  readonly degradedWrites: 'allow' | 'reject';
  readonly readers: number;
  readonly writers: number;
  /** Milliseconds that each rests between two steps, at most. */
  readonly readRestMs: number;
  readonly writeRestMs: number;
  readonly rows: Readonly<Record<string, string>>;
  /** Whose sessions and orders they are. */
  readonly owner: string;
  /** The names that users take from each other. */
  readonly names: readonly string[];
  /** Owners of the collections, and how many orders each gets from one node. */
  readonly shoppers: Readonly<Record<string, string>>;
  readonly placements: number;
}

/** Beside a node's file of reads: its writes. */
export const writesOf = (file: string): string => `${file}.writes`;

/** Where a writer can be made to die. */
export const STEPS = ['sql', 'fenced', 'commit-sent', 'committed', 'publish-sent', 'published'] as const;
export type Step = (typeof STEPS)[number];

/** Ways to break the protocol, to see that the checker finds them. */
export const BREAKAGES = [
  'fences are dropped',
  'publications are dropped and reported as done',
  'every server has the same incarnation',
  'the gate is always open',
] as const;
export type Breakage = (typeof BREAKAGES)[number];

export type Command =
  | { readonly kind: 'begin'; readonly plan: Plan }
  | { readonly kind: 'end' }
  | { readonly kind: 'die'; readonly step: Step }
  | { readonly kind: 'break'; readonly breakage: Breakage | null }
  /** Repeats a placement that a dead node may or may not have committed. */
  | { readonly kind: 'repeat'; readonly stamp: number; readonly owner: string; readonly key: string }
  /** Reads every row once through the cache; answered with `seen`. */
  | { readonly kind: 'look' };

export type Report =
  | { readonly kind: 'ready' }
  | { readonly kind: 'ended' }
  | { readonly kind: 'seen'; readonly rows: Readonly<Record<string, number>> };
