/**
 * What a round of the campaign leaves behind, as nodes tell it to the process that judges it. Times are microseconds of
 * CLOCK_MONOTONIC, one clock for all processes of a machine; a beginning is rounded down and an end up, which only widens
 * intervals. What a killed node had not yet told is unknown: a read that nobody judges, a write that nobody acknowledged.
 *
 * A subject is what has a history of its own: an order (`o3`), a session that comes and goes (`s1`), a user (`u2`), an order
 * that somebody writes by hand (`h0`), the list of a shopper's newest orders (`c0`), or a name that users take from each
 * other (`n4`). A stamp is a number that one attempt to write puts into its rows: it tells whose content a reader saw.
 */
export interface Subject {
  readonly name: string;
  /** Of the row, or of the list's owner; the name itself for a name. */
  readonly id: string;
}
export type Kind = 'o' | 's' | 'u' | 'h' | 'c' | 'n';
export const kindOf = ({ name }: Subject): Kind => name[0] as Kind;

/**
 * A read is this many numbers: subject (its index), version, stamp, begin, end. A list's version is how many of its orders are
 * there without a gap. Nothing found is version 0; of a name only that is told, since what is found is a user.
 */
export const READ_WIDTH = 5;

/** What one write did, in two or three parts: it began, and was acknowledged or failed, or nobody knows. */
export type WriteEvent =
  | { readonly event: 'begun'; readonly stamp: number; readonly at: number }
  | {
      readonly event: 'acknowledged';
      readonly stamp: number;
      readonly at: number;
      readonly how: How;
      /** Index of each subject written, and its version then. */
      readonly written: readonly (readonly [subject: number, version: number])[];
    }
  | { readonly event: 'failed'; readonly stamp: number; readonly at: number; readonly why: string };

/** `unfenced`: committed without its fences. `unpublished`: its keys were left to the database. `by hand`: in psql. */
export type How = 'fenced' | 'unfenced' | 'unpublished' | 'by hand';

export const micros = (): number => Number(process.hrtime.bigint() / 1000n);
/** For ends: never earlier than what happened. */
export const microsUp = (): number => Number((process.hrtime.bigint() + 999n) / 1000n);

/** What a node does in one round, and on what. */
export interface Plan {
  readonly seed: number;
  readonly degradedWrites: 'allow' | 'reject';
  readonly subjects: readonly Subject[];
  /** Whose orders and sessions they are. */
  readonly owner: string;
  readonly readers: number;
  readonly writers: number;
  /** Milliseconds that a reader, and a writer, rests between two steps, at most. */
  readonly readRestMs: number;
  readonly writeRestMs: number;
}

/** Where a writer can be made to die. */
export const STEPS = ['sql', 'fenced', 'commit sent', 'committed', 'published'] as const;
export type Step = (typeof STEPS)[number];

export type Command =
  | { readonly do: 'begin'; readonly plan: Plan }
  | { readonly do: 'die'; readonly step: Step }
  /** Stop the clients and wait for what is under way; answered with `ended`. */
  | { readonly do: 'end' }
  /** Read every row and list once; answered with `looked`. */
  | { readonly do: 'look' };

export type Report =
  | { readonly said: 'ready' }
  | { readonly said: 'reads'; readonly reads: Float64Array }
  | { readonly said: 'writes'; readonly writes: readonly WriteEvent[] }
  /** A row that does not have the name by which it was found. */
  | { readonly said: 'wrong row'; readonly what: string }
  | {
      readonly said: 'ended';
      /** Calls that did not come back in time. */
      readonly hanging: number;
      /** Reads that failed, as they may while PostgreSQL cannot be reached. */
      readonly failedReads: number;
      /** How the cache answered: hit, miss, fenced, bypass, unavailable. */
      readonly outcomes: Readonly<Record<string, number>>;
    }
  /** The version of each subject, as it was seen. */
  | { readonly said: 'looked'; readonly versions: readonly number[] };

/** A fault as it happened: at these times it was begun, and was over. */
export interface Happened {
  readonly kind: string;
  readonly what: string;
  readonly from: number;
  readonly to: number;
}
