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
const consumer = {
  file: 'src/platform/inbox/consumer-runner.ts',
  specs: ['test/platform/inbox/failing-handlers.spec.ts'],
};
const consumerSql = { ...consumer, file: 'src/platform/inbox/inbox-statements.ts' };

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
    text: lines('WHERE published_at >= $1::timestamptz', '         AND published_at < now()'),
    replacement: 'WHERE $1::timestamptz IS NOT NULL AND occurred_at < now()',
    specs: ['test/platform/outbox/outbox-purge.spec.ts'],
  },
  {
    name: 'purge-beside-a-node-with-a-broker',
    without: 'a node without a broker removes events that another node would publish',
    file: 'src/platform/outbox/outbox-purge.ts',
    text: 'AND NOT EXISTS (SELECT FROM outbox AS published WHERE published_at IS NOT NULL)',
    replacement: '',
    specs: ['test/platform/outbox/outbox-purge.spec.ts'],
  },
  {
    ...partitions,
    name: 'relay-without-an-idle-session-timeout',
    without: 'a relay whose link loses every packet keeps its partitions',
    file: 'src/platform/timing/keepalive.ts',
    text: 'SET idle_session_timeout = ${idleMs};',
    replacement: 'SET idle_session_timeout = 0;',
  },
  {
    ...partitions,
    name: 'relay-without-a-heartbeat',
    without: 'a relay that waits for the broker loses its partitions',
    text: 'this.heartbeat = setInterval(() => void this.beat(), this.timeouts.heartbeat).unref();',
    replacement: '',
    isSlow: true,
  },
  {
    name: 'stalled-partitions-unseen',
    without: 'readiness is ok although nobody relays a partition',
    file: 'src/platform/outbox/relay-progress.ts',
    text: 'this.firsts.get(partition)?.position !== position',
    replacement: 'position > 0',
    specs: ['test/platform/outbox/relay-progress.spec.ts'],
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
    text: 'await consumer.handle(delivery, manager, signal);',
    replacement: 'await consumer.handle(delivery, manager.connection.manager, signal);',
  },
  {
    ...consumer,
    name: 'inbox-on-every-node-at-once',
    without: 'several nodes serve one consumer at the same time',
    text: 'if (!row.isLocked) return undefined;',
    replacement: 'void row;',
    specs: inbox.specs,
  },
  {
    ...consumer,
    name: 'inbox-overtakes-a-failed-event',
    without: 'the later events of a subject are handled while an earlier one waits for its retry',
    text: 'if (row.isBehind || failedSubjects.has(row.subject))',
    replacement: 'if (failedSubjects.has(row.subject))',
    specs: [...inbox.specs, ...consumer.specs],
  },
  {
    ...consumer,
    name: 'inbox-overtakes-within-a-batch',
    without: 'the later events of a subject are handled beside one that must be retried alone',
    text: 'if (row.isBehind || failedSubjects.has(row.subject))',
    replacement: 'if (row.isBehind)',
    specs: [...inbox.specs, ...consumer.specs],
  },
  {
    ...consumer,
    name: 'inbox-without-a-deadline',
    without: 'a handler that never resolves starves its consumer',
    text: "await withDeadline(timeoutMs, 'The handler', handling);",
    replacement: 'await handling;',
    isSlow: true,
  },
  {
    ...consumer,
    name: 'inbox-keeps-the-connection-of-a-late-handler',
    without: 'a handler writes after its deadline',
    text: 'if (isHandlerRunning) await closeConnection(manager.queryRunner);',
    replacement: 'void isHandlerRunning;',
  },
  {
    ...consumer,
    name: 'inbox-idle-timeout-of-requests',
    without: 'PostgreSQL ends the transaction of a handler that is slow and within its deadline',
    text: 'String(timeoutMs + IDLE_MARGIN_MS)',
    replacement: "'300'",
  },
  {
    ...consumerSql,
    name: 'inbox-counts-attempts-with-the-handler',
    without: 'attempts that end with the process do not count',
    text: "attempts = attempts + (plan.action = 'deliver')::int",
    replacement: 'attempts = attempts',
  },
  {
    ...consumerSql,
    name: 'inbox-without-dead-letters',
    without: 'an event that always fails is retried for ever',
    text: "WHEN attempts >= ${MAX_ATTEMPTS} THEN 'infinity'",
    replacement: "WHEN attempts < 0 THEN 'infinity'",
  },
  {
    ...consumerSql,
    name: 'inbox-forgets-what-queues-behind',
    without: 'events behind a dead letter wait for ever after it was skipped',
    text: 'WHERE later.handled_at IS NULL AND later.held AND later.position > settled.position',
    replacement: 'WHERE later.handled_at IS NOT NULL AND later.position > settled.position',
    isSlow: true,
  },
  {
    name: 'floor-ignores-open-transactions',
    without: 'events that are committed late are not delivered',
    file: 'src/platform/database/queue-floors.ts',
    text: 'if (isOpen) return;',
    replacement: 'void isOpen;',
    specs: [...inbox.specs, 'test/verify/relay/naive-relays.spec.ts'],
  },
];
