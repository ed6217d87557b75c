/** Every migration in order. A list, not a glob: a stray file in the folder must not run. */
import { Users1763683200000 } from './1763683200000-users.js';
import { Sessions1763683200001 } from './1763683200001-sessions.js';
import { Orders1763683200002 } from './1763683200002-orders.js';
import { Outbox1763683200003 } from './1763683200003-outbox.js';
import { IdempotencyKeys1763683200004 } from './1763683200004-idempotency-keys.js';
import { CacheInvalidations1763683200005 } from './1763683200005-cache-invalidations.js';
import { OrderConstraints1763683200006 } from './1763683200006-order-constraints.js';
import { OutboxLanes1763683200007 } from './1763683200007-outbox-lanes.js';
import { OrderHistory1763683200008 } from './1763683200008-order-history.js';
import { Inbox1763683200009 } from './1763683200009-inbox.js';
import { KnownDevices1763683200010 } from './1763683200010-known-devices.js';
import { OrderLists1763683200012 } from './1763683200012-order-lists.js';
import { CacheEpochs1763683200013 } from './1763683200013-cache-epochs.js';
import { EventQueues1763683200014 } from './1763683200014-event-queues.js';
import { FailedLogins1763683200015 } from './1763683200015-failed-logins.js';
import { Accounts1763683200017 } from './1763683200017-accounts.js';

export const MIGRATIONS = [
  Users1763683200000,
  Sessions1763683200001,
  Orders1763683200002,
  Outbox1763683200003,
  IdempotencyKeys1763683200004,
  CacheInvalidations1763683200005,
  OrderConstraints1763683200006,
  OutboxLanes1763683200007,
  OrderHistory1763683200008,
  Inbox1763683200009,
  KnownDevices1763683200010,
  OrderLists1763683200012,
  CacheEpochs1763683200013,
  EventQueues1763683200014,
  FailedLogins1763683200015,
  Accounts1763683200017,
];
