/** The steps at which a node can be killed, and the defects that the audit must find. */

/** Steps of a write on orders, in the order in which a write passes them. */
export const WRITE_STEPS = [
  'before the transaction',
  'transaction begun',
  'key claimed',
  'order written',
  'event written',
  'outbox written',
  'key written',
  'keys fenced',
  'commit sent',
  'committed',
  'invalidation sent',
  'invalidation published',
  'before the response',
  'half of the response sent',
  'response sent',
] as const;

/** Steps of the relay, which only a node with RabbitMQ passes. */
export const RELAY_STEPS = ['event sent', 'event confirmed', 'events settled'] as const;

export const ALL_STEPS = [...WRITE_STEPS, ...RELAY_STEPS] as const;
export type Step = (typeof ALL_STEPS)[number];

/** Guards of the service that a node can be made to break, while it runs. */
export type Defect = 'the key is committed after the order' | 'the key is not locked';

/** What a node receives over IPC. */
export type Command =
  /** Die at this step, after it was passed `passes` times. */
  | { readonly kind: 'die'; readonly step: Step; readonly passes: number }
  | { readonly kind: 'inject'; readonly defect: Defect };
