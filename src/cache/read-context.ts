/**
 * What one HTTP request asks of the cache (`no-cache`) and what the cache did for it (the outcomes behind Cache-Status). It
 * travels in an AsyncLocalStorage, so that services need not carry it; outside a request there is none, and reads are strict.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

/** How one read was answered. `request`: the caller asked for the primary. */
export type Outcome = 'hit' | 'miss' | 'fenced' | 'bypass' | 'unavailable' | 'request';

export interface ReadContext {
  /** The caller said `Cache-Control: no-cache`: read the primary database. */
  readonly fresh: boolean;
  /** Set by the first read that was not a hit; a response is a hit only when all its reads were. */
  outcome?: Outcome;
}

export const readContext = new AsyncLocalStorage<ReadContext>();
