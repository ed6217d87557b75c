/** What run.ts and its nodes send each other. */
import type { Servers } from './peers.js';

export type Command =
  | { readonly do: 'open'; readonly peer: string; readonly servers: Servers }
  | RunCommand
  /** Read each row once; the answer is their versions. */
  | { readonly do: 'readAll'; readonly ids: readonly string[] };

export interface RunCommand {
  readonly do: 'run';
  readonly ids: readonly string[];
  readonly ms: number;
  readonly seed: number;
  readonly readers: number;
  readonly writers: number;
}

export type Answer = { readonly result: unknown } | { readonly error: string };

/** Columns of equal length, with one entry for each read or each acknowledged write. */
export interface Events {
  /** Nanoseconds: when the read began, or when the write was acknowledged. */
  readonly at: Float64Array;
  /** Nanoseconds that it took. */
  readonly took: Float64Array;
  /** Index into the ids. */
  readonly row: Uint8Array;
  readonly version: Float64Array;
}

export interface Log {
  readonly reads: Events;
  readonly writes: Events;
  /** How many rows PostgreSQL returned to readers. */
  readonly rowsLoaded: number;
  readonly failures: readonly string[];
}

/** A reader rests this long: reads from memory would otherwise leave no time for anything else. */
export const READER_REST_MS = 1;
