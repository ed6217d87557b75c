/** Collects what the clients of a node saw and did, and reports it in batches. */
import type { CachedRow } from '../../../src/platform/cache/cached.decorator.js';
import { Order } from '../../../src/orders/order.entity.js';
import { Session } from '../../../src/auth/sessions/session.entity.js';
import { User } from '../../../src/users/user.entity.js';
import { endMicros, READ_WIDTH, type SubjectIndex, type WriteEvent } from './history.js';
import type { Message } from './node-messages.js';

const REPORT_INTERVAL_MS = 50;
const MAX_READS_A_MESSAGE = 4_096;

const reads = new Float64Array(MAX_READS_A_MESSAGE * READ_WIDTH);
let readLength = 0;
let writes: WriteEvent[] = [];

export function send(message: Message): void {
  // The cluster may be gone: the node then ends because its channel closes.
  process.send?.(message, undefined, {}, () => undefined);
}

/** Reports all that was recorded so far. */
export function flush(): void {
  if (readLength > 0) send({ type: 'reads', reads: reads.slice(0, readLength) });
  if (writes.length > 0) send({ type: 'writes', writes });
  readLength = 0;
  writes = [];
}

/** Records a read that ends now. @param row null when nothing was found */
export function recordRead(
  subject: SubjectIndex,
  version: number,
  row: CachedRow | null,
  begin: number,
): void {
  reads.set([subject, version, stampOf(row), begin, endMicros()], readLength);
  readLength += READ_WIDTH;
  if (readLength === reads.length) flush();
}

export function recordWrite(event: WriteEvent): void {
  writes.push(event);
}

export function startReporting(): void {
  setInterval(flush, REPORT_INTERVAL_MS);
}

/** The stamp of the write that a row is of (audit.ts); 0 without a row. */
function stampOf(row: CachedRow | null): number {
  if (row instanceof Order) return Number(row.note);
  if (row instanceof Session) return Number(row.userAgent);
  if (row instanceof User) return Number(row.email?.split('@')[0]);
  return 0;
}
