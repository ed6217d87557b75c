/** The steps of a write at which a node can be told to die, in the order in which a write passes them, and the ways to break it. */
export const STEPS = [
  'before the transaction',
  'begun',
  'key claimed',
  'order written',
  'event written',
  'outbox written',
  'key written',
  'fenced',
  'commit sent',
  'committed',
  'publish sent',
  'published',
  'before the answer',
  'half an answer',
  'answered',
] as const;

/** The steps of the relay, which carries what was written to RabbitMQ: only where there is one. */
export const RELAY_STEPS = ['event sent', 'event confirmed', 'events marked'] as const;
export type Step = (typeof STEPS | typeof RELAY_STEPS)[number];

/** What the audit must find: a guard that is taken out while the nodes run. */
export const BREAKAGES = ['the key is committed after the order', 'the key is not locked'] as const;
export type Breakage = (typeof BREAKAGES)[number];

/** What a node is told over IPC. `passes`: how often the step goes by first. */
export type Command =
  | { readonly kind: 'die'; readonly step: Step; readonly passes: number }
  | { readonly kind: 'break'; readonly breakage: Breakage };
