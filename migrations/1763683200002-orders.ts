/**
 * Orders. `order_events` is the event log and only grows; `orders` is its projection, written in
 * the same transaction. The indexes serve the lists: of one user or of all, with or without a
 * status, newest first.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites } from './online/locks.js';

export class Orders1763683200002 implements MigrationInterface {
  readonly name = 'Orders1763683200002';

  async up(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['users'],
      [
        `
      CREATE TABLE orders (
        id uuid NOT NULL,
        user_id uuid NOT NULL,
        status text NOT NULL,
        currency text NOT NULL,
        items jsonb NOT NULL,
        total bigint NOT NULL,
        note text,
        version bigint NOT NULL DEFAULT 1,
        created_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        updated_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        CONSTRAINT orders_pkey PRIMARY KEY (id),
        CONSTRAINT orders_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
        CONSTRAINT orders_status_known
          CHECK (status IN ('placed', 'paid', 'shipped', 'delivered', 'cancelled', 'refunded')),
        CONSTRAINT orders_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT orders_total_range CHECK (total BETWEEN 0 AND 9007199254740991),
        CONSTRAINT orders_items_count
          CHECK (jsonb_typeof(items) = 'array' AND jsonb_array_length(items) BETWEEN 1 AND 100)
      )`,
        `CREATE INDEX orders_of_user ON orders (user_id, created_at DESC, id DESC)`,
        `CREATE INDEX orders_of_user_by_status ON orders (user_id, status, created_at DESC, id DESC)`,
        `CREATE INDEX orders_newest ON orders (created_at DESC, id DESC)`,
        `CREATE INDEX orders_by_status ON orders (status, created_at DESC, id DESC)`,
        `CREATE TRIGGER orders_version BEFORE UPDATE ON orders
         FOR EACH ROW EXECUTE FUNCTION move_version()`,
        `CREATE TRIGGER orders_updated_at BEFORE UPDATE ON orders
         FOR EACH ROW EXECUTE FUNCTION move_updated_at()`,
        `
      CREATE TABLE order_events (
        order_id uuid NOT NULL,
        version bigint NOT NULL,
        type text NOT NULL,
        schema smallint NOT NULL,
        data jsonb NOT NULL,
        actor_id uuid NOT NULL,
        occurred_at timestamptz(3) NOT NULL,
        CONSTRAINT order_events_pkey PRIMARY KEY (order_id, version),
        CONSTRAINT order_events_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (id)
      )`,
        `
      CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        RAISE EXCEPTION '% only grows', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
      END $$`,
        `
      CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()`,
      ],
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(
      runner,
      ['users', 'orders', 'order_events'],
      [`DROP TABLE order_events`, `DROP FUNCTION refuse_change()`, `DROP TABLE orders`],
    );
  }
}
