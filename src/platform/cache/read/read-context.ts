/**
 * What one caller asks of the cache (`no-cache`) and what the cache did for it (the outcomes behind Cache-Status). It is handed
 * down to the reads that make up the answer; a read without one is strict and tells nobody but the metrics.
 */

/** How one read was answered. `request`: the caller asked for the primary. */
export type Outcome = 'hit' | 'miss' | 'fenced' | 'bypass' | 'unavailable' | 'request';

export class Reading {
  /** That of the first read that was no hit; an answer is a hit only when all its reads were. Undefined: nothing was read. */
  outcome: Outcome | undefined;

  /** @param fresh the caller said `Cache-Control: no-cache`: read the primary database */
  constructor(readonly fresh: boolean) {}

  note(outcome: Outcome): void {
    if (this.outcome === undefined || this.outcome === 'hit') this.outcome = outcome;
  }
}
