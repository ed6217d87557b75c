/**
 * The inbox of this service's own consumers. A trigger of the outbox delivers each event to the
 * consumers of its type in the transaction of the event. So nothing that commits late is missed,
 * and events of an older release are delivered too. The daily totals begin with the existing
 * orders, while requests go on.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites, hasTrigger, runInSnapshot } from './online/locks.js';

/** CREATE TRIGGER waits for the transactions that have written events. Later events are delivered. */
const BEGIN_DELIVERY = [
  `
      CREATE TABLE event_consumers (
        name text NOT NULL,
        prefix text NOT NULL,
        CONSTRAINT event_consumers_pkey PRIMARY KEY (name)
      )`,
  `
      CREATE TABLE inbox (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        position bigint NOT NULL,
        type text NOT NULL,
        subject text NOT NULL,
        data jsonb NOT NULL,
        occurred_at timestamptz(3) NOT NULL,
        handled_at timestamptz(3),
        attempts integer NOT NULL DEFAULT 0,
        retry_at timestamptz(3),
        last_error text,
        CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
      )`,
  `CREATE INDEX inbox_waiting ON inbox (consumer, position) WHERE handled_at IS NULL`,
  `CREATE INDEX inbox_failed ON inbox (consumer, subject, position)
         WHERE handled_at IS NULL AND retry_at IS NOT NULL`,
  `CREATE INDEX inbox_handled ON inbox (handled_at) WHERE handled_at IS NOT NULL`,
  `
      CREATE FUNCTION deliver_event() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
          SELECT name, NEW.id, NEW.position, NEW.type, NEW.subject, NEW.data, NEW.occurred_at
            FROM event_consumers WHERE starts_with(NEW.type, prefix)
          ON CONFLICT DO NOTHING;
        RETURN NULL;
      END $$`,
  `CREATE TRIGGER outbox_delivery AFTER INSERT ON outbox
         FOR EACH ROW EXECUTE FUNCTION deliver_event()`,
  `
      CREATE TABLE order_figures (
        day date NOT NULL,
        status text NOT NULL,
        currency text NOT NULL,
        count bigint NOT NULL,
        total numeric NOT NULL,
        CONSTRAINT order_figures_pkey PRIMARY KEY (day, status, currency)
      )`,
  `INSERT INTO event_consumers (name, prefix) VALUES ('order-figures', 'order.')`,
];

/**
 * An order, its event and the delivery commit together. So the orders that the snapshot shows are
 * counted without exactly the deliveries that it shows, and the consumer adds the others.
 */
export const COUNT_ORDERS = [
  `DELETE FROM order_figures`,
  `INSERT INTO order_figures (day, status, currency, count, total)
   SELECT (created_at AT TIME ZONE 'UTC')::date, status, currency, count(*), sum(total)
     FROM orders GROUP BY 1, 2, 3`,
  `DELETE FROM inbox WHERE consumer = 'order-figures'`,
];

export class Inbox1763683200009 implements MigrationInterface {
  readonly name = 'Inbox1763683200009';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    if (!(await hasTrigger(runner, 'outbox', 'outbox_delivery'))) {
      await blockWrites(runner, ['outbox'], BEGIN_DELIVERY);
    }
    await runInSnapshot(runner, 'order_figures', COUNT_ORDERS);
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(
      runner,
      ['outbox', 'event_consumers', 'inbox', 'order_figures'],
      [
        `DROP TRIGGER IF EXISTS outbox_delivery ON outbox`,
        `DROP FUNCTION IF EXISTS deliver_event()`,
        `DROP TABLE IF EXISTS event_consumers, inbox, order_figures`,
      ],
    );
  }
}
