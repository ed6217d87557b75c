/**
 * What one round leaves behind for the checker: reads, writes and faults. Times are microseconds of
 * CLOCK_MONOTONIC, one clock for all processes of a machine. Beginnings are rounded down and ends
 * up, which only widens intervals. What a killed node had not reported yet is unknown: such a read
 * is not checked, such a write is not acknowledged.
 */

/**
 * What has a history of its own. `order`, `session` (comes and goes) and `user` are rows that nodes
 * write; `outside-order` is written past the service; `list` is a user's newest orders; `username`
 * is a name that users take from each other.
 */
export type SubjectKind = 'order' | 'session' | 'user' | 'outside-order' | 'list' | 'username';

export interface Subject {
  readonly kind: SubjectKind;
  /** For people, e.g. `order 3`. */
  readonly label: string;
  /** Of the row, or of the list's owner; for a username the name itself. */
  readonly id: string;
}

/** Index into the round's subjects. */
export type SubjectIndex = number;

/**
 * A read is this many numbers of a Float64Array: subject index, version, stamp, begin, end. A
 * subject that was not found has version 0. The version of a list is the number of its orders
 * without a gap. Of a username only "not found" is recorded: what is found is a user.
 */
export const READ_WIDTH = 5;

/** One read, unpacked. */
export interface Read {
  readonly subject: SubjectIndex;
  readonly version: number;
  /** Every attempt to write has a number of its own, its stamp, and puts it into its rows. */
  readonly stamp: number;
  readonly begin: number;
  readonly end: number;
}

export function* unpackReads(packed: Float64Array): Generator<Read> {
  for (let at = 0; at < packed.length; at += READ_WIDTH) {
    yield {
      subject: packed[at] as number,
      version: packed[at + 1] as number,
      stamp: packed[at + 2] as number,
      begin: packed[at + 3] as number,
      end: packed[at + 4] as number,
    };
  }
}

/**
 * How a write was invalidated. `unfenced`: committed without its fences, or after their epoch.
 * `unpublished`: its keys were enqueued in the database. `outside`: written past the service.
 */
export type Invalidated = 'fenced' | 'unfenced' | 'unpublished' | 'outside';

/** A write begins; then it is acknowledged, fails, or its outcome stays unknown. */
export type WriteEvent =
  | { readonly event: 'begun'; readonly stamp: number; readonly at: number }
  | AcknowledgedEvent
  | {
      readonly event: 'failed';
      readonly stamp: number;
      readonly at: number;
      readonly invalidated: Invalidated;
      readonly reason: string;
    };

export interface AcknowledgedEvent {
  readonly event: 'acknowledged';
  readonly stamp: number;
  readonly at: number;
  readonly invalidated: Invalidated;
  readonly written: Written;
}

/** Each subject of a write, with the version that it got. */
export type Written = readonly (readonly [subject: SubjectIndex, version: number])[];

/** A fault, from its beginning to its end. */
export interface FaultRecord {
  readonly kind: string;
  readonly details: string;
  readonly from: number;
  readonly to: number;
}

/** Now, for beginnings. */
export const beginMicros = (): number => Number(process.hrtime.bigint() / 1000n);

/** Now, for ends: never earlier than what happened. */
export const endMicros = (): number => Number((process.hrtime.bigint() + 999n) / 1000n);
