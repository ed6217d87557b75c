/** Events on their way out (outbox) and in (inbox). */
import { lines, type Mutant } from '../mutant.js';

const pass = {
  file: 'src/platform/outbox/relay-pass.ts',
  specs: ['test/platform/outbox/relay-pass.spec.ts'],
};
const partitions = {
  file: 'src/platform/outbox/outbox-partitions.ts',
  specs: ['test/platform/outbox/outbox-partitions.spec.ts'],
};
const inbox = {
  file: 'src/platform/inbox/inbox.service.ts',
  specs: ['test/platform/inbox/inbox.spec.ts'],
};

export const EVENT_MUTANTS: readonly Mutant[] = [
  {
    name: 'event-on-its-own-connection',
    without: 'the event of an order is committed although the order is rolled back',
    file: 'src/platform/outbox/outbox.service.ts',
    text: 'await manager.insert(OutboxEvent, {',
    replacement: 'await manager.connection.manager.insert(OutboxEvent, {',
    specs: ['test/platform/idempotency/exactly-once.spec.ts'],
  },
  {
    ...pass,
    name: 'relay-settles-before-the-confirm',
    without: 'an event counts as published before the broker has confirmed it',
    text: '        await this.publishTraced(event);',
    replacement: '        void this.publishTraced(event).catch(() => undefined);',
  },
  {
    ...pass,
    name: 'relay-goes-on-after-a-rejection',
    without: 'the later events of a subject are published after one was rejected',
    text:
      'return { published, rejected: [this.reject(event, error)], ' +
      'blocked: queueBehind(later) };',
    replacement: lines(
      'this.reject(event, error);',
      '          void later;',
      '          continue;',
    ),
  },
  {
    ...pass,
    name: 'relay-publishes-a-subject-at-once',
    without: 'the events of one subject are published beside each other',
    text: 'batch.map((part) => this.publishSubject(part))',
    replacement: lines(
      'batch.flatMap(({ state, events }) =>',
      '        events.map((event) => this.publishSubject({ state, events: [event], queued: [] })),',
      '      )',
    ),
  },
  {
    ...partitions,
    name: 'relay-without-the-partition-lock',
    without: 'two relays publish the events of one partition',
    text: 'if (!row?.isLocked) return false;',
    replacement: 'void row;',
  },
  {
    ...partitions,
    name: 'blocked-subject-published',
    without: 'a new event of a blocked subject is published before the blocked ones',
    text: 'const isBlocked = ordered.some(({ isBehind }) => isBehind);',
    replacement: 'const isBlocked = ordered.length === 0;',
  },
  {
    ...partitions,
    name: 'batch-out-of-order',
    without: 'the events of a subject are taken in any order',
    text: 'Number(BigInt(a.position) - BigInt(b.position))',
    replacement: 'Number(BigInt(b.position) - BigInt(a.position))',
  },
  {
    name: 'purge-of-unpublished-events',
    without: 'the purge removes events that no broker has confirmed',
    file: 'src/platform/outbox/outbox-purge.ts',
    text: 'WHERE published_at < now()',
    replacement: 'WHERE occurred_at < now()',
    specs: ['test/platform/outbox/outbox-purge.spec.ts'],
  },
  {
    ...inbox,
    name: 'inbox-without-the-duplicate-check',
    without: 'an event that is delivered again is handled again',
    text: 'if (affected !== 1) return false;',
    replacement: 'void affected;',
  },
  {
    ...inbox,
    name: 'inbox-handler-outside-its-transaction',
    without: 'what a handler wrote stays although its event failed',
    text: 'await consumer.handle(delivery, manager);',
    replacement: 'await consumer.handle(delivery, manager.connection.manager);',
  },
  {
    ...inbox,
    name: 'inbox-on-every-node-at-once',
    without: 'several nodes serve one consumer at the same time',
    text: 'if (!isLocked) return 0;',
    replacement: 'void isLocked;',
  },
  {
    ...inbox,
    name: 'inbox-overtakes-a-failed-event',
    without: 'the later events of a subject are handled while an earlier one waits for its retry',
    text: '.andWhere(`NOT ${IS_BLOCKED}`)',
    replacement: '.andWhere(`${IS_BLOCKED} IS NOT NULL`)',
  },
  {
    ...inbox,
    name: 'inbox-overtakes-within-a-batch',
    without:
      'the later events of a subject are handled in the batch in which an earlier one failed',
    text: 'if (failedSubjects.has(delivery.subject)) continue;',
    replacement: '',
  },
  {
    name: 'inbox-delivery-after-the-event',
    without: 'events that are committed late are not delivered',
    file: 'src/platform/inbox/inbox.service.ts',
    text: ".orderBy('delivery.position', 'ASC')",
    replacement: lines(
      ".andWhere('delivery.position > COALESCE((SELECT max(position) FROM inbox AS done ' +",
      "        'WHERE done.consumer = delivery.consumer AND done.handled_at IS NOT NULL), 0)')",
      "      .orderBy('delivery.position', 'ASC')",
    ),
    specs: inbox.specs,
  },
];
