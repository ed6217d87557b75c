/**
 * One caller's wishes for its reads (`Cache-Control: no-cache`), and how the cache answered them
 * (the header Cache-Status, RFC 9211). A caller passes it to every read that makes up its answer.
 */

/**
 * How one read was answered. `near`: from this process's memory. `request`: from the primary
 * database because the caller asked to.
 */
export type ReadOutcome = 'near' | 'hit' | 'miss' | 'fenced' | 'bypass' | 'unavailable' | 'request';

export class ReadContext {
  /**
   * The outcome of the whole answer: `near` or `hit` only if all reads were hits, else the outcome
   * of the first read that was not. Undefined before the first read.
   */
  outcome: ReadOutcome | undefined;

  /** @param isPrimaryRequired the caller sent `Cache-Control: no-cache` */
  constructor(readonly isPrimaryRequired: boolean) {}

  recordOutcome(outcome: ReadOutcome): void {
    const isFirst = this.outcome === undefined || this.outcome === 'near';
    const isFirstMiss = this.outcome === 'hit' && outcome !== 'near';
    if (isFirst || isFirstMiss) this.outcome = outcome;
  }
}
