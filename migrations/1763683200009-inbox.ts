/**
 * The inbox of this service's own consumers. A trigger of the outbox delivers each event to the
 * consumers of its type in the transaction of the event. So nothing that commits late is missed,
 * and events of an older release are delivered too. The daily totals begin with the existing
 * orders, counted while nobody can write one.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Inbox1763683200009 implements MigrationInterface {
  readonly name = 'Inbox1763683200009';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE event_consumers (
        name text NOT NULL,
        prefix text NOT NULL,
        CONSTRAINT event_consumers_pkey PRIMARY KEY (name)
      )`);
    await runner.query(`
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
      )`);
    await runner.query(
      `CREATE INDEX inbox_waiting ON inbox (consumer, position) WHERE handled_at IS NULL`,
    );
    await runner.query(
      `CREATE INDEX inbox_failed ON inbox (consumer, subject, position)
         WHERE handled_at IS NULL AND retry_at IS NOT NULL`,
    );
    await runner.query(
      `CREATE INDEX inbox_handled ON inbox (handled_at) WHERE handled_at IS NOT NULL`,
    );
    await runner.query(`
      CREATE FUNCTION deliver_event() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
          SELECT name, NEW.id, NEW.position, NEW.type, NEW.subject, NEW.data, NEW.occurred_at
            FROM event_consumers WHERE starts_with(NEW.type, prefix)
          ON CONFLICT DO NOTHING;
        RETURN NULL;
      END $$`);
    await runner.query(
      `CREATE TRIGGER outbox_delivery AFTER INSERT ON outbox
         FOR EACH ROW EXECUTE FUNCTION deliver_event()`,
    );
    await runner.query(`
      CREATE TABLE order_figures (
        day date NOT NULL,
        status text NOT NULL,
        currency text NOT NULL,
        count bigint NOT NULL,
        total numeric NOT NULL,
        CONSTRAINT order_figures_pkey PRIMARY KEY (day, status, currency)
      )`);
    await runner.query(`LOCK TABLE orders, outbox IN SHARE ROW EXCLUSIVE MODE`);
    await runner.query(
      `INSERT INTO event_consumers (name, prefix) VALUES ('order-figures', 'order.')`,
    );
    await runner.query(`
      INSERT INTO order_figures (day, status, currency, count, total)
      SELECT (created_at AT TIME ZONE 'UTC')::date, status, currency, count(*), sum(total)
        FROM orders GROUP BY 1, 2, 3`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE order_figures`);
    await runner.query(`DROP TRIGGER outbox_delivery ON outbox`);
    await runner.query(`DROP FUNCTION deliver_event()`);
    await runner.query(`DROP TABLE inbox`);
    await runner.query(`DROP TABLE event_consumers`);
  }
}
