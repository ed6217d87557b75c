/**
 * Constraints for what the write path guarantees: the items of an order and their sum, the form of
 * events and of password hashes, and that an idempotency key keeps successful responses only. Each
 * event gets a foreign key to its actor.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { addChecks, addForeignKey, dropConstraints } from './online/constraints.js';

/** A PHC string of argon2id: version, parameters, salt, hash. */
const PASSWORD_HASH_FORM =
  '^[$]argon2id[$]v=[0-9]+[$]m=[0-9]+,t=[0-9]+,p=[0-9]+' +
  '[$][A-Za-z0-9+/]{11,}[$][A-Za-z0-9+/]{16,}$';

const ITEMS_FORM = `items = jsonb_path_query_array(items, 'strict $[*] ? (
    @.sku like_regex "^.{1,64}$" flag "s"
    && @.name like_regex "^.{1,200}$" flag "s"
    && @.quantity.floor() == @.quantity && @.quantity >= 1 && @.quantity <= 10000
    && @.unitPrice.floor() == @.unitPrice && @.unitPrice >= 0 && @.unitPrice <= 1000000000000)')`;

const SUM_OF_ITEMS = `sum((item ->> 'quantity')::numeric * (item ->> 'unitPrice')::numeric)`;

/**
 * PostgreSQL checks the constraints of a table in the order of their names. So `orders_items_form`
 * can rely on the list that `orders_items_count` requires, and `orders_total_sum` on the numbers
 * that `orders_items_form` requires.
 */
const CHECKS = {
  orders: {
    orders_items_form: ITEMS_FORM,
    orders_note_length: `length(note) <= 1000`,
    orders_total_sum: `total = order_total(items)`,
  },
  order_events: {
    order_events_version_range: `version >= 1`,
    order_events_type_form: `type ~ '^order[.][a-z]+(-[a-z]+)*$'`,
    order_events_schema_range: `schema >= 1`,
    order_events_data_form: `jsonb_typeof(data) = 'object'`,
  },
  credentials: { credentials_password_hash_form: `password_hash ~ '${PASSWORD_HASH_FORM}'` },
  idempotency_keys: { idempotency_keys_status_success: `status BETWEEN 200 AND 299` },
} as const;
const TABLES = ['orders', 'order_events', 'credentials', 'idempotency_keys'] as const;

export class OrderConstraints1763683200006 implements MigrationInterface {
  readonly name = 'OrderConstraints1763683200006';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE OR REPLACE FUNCTION order_total(items jsonb) RETURNS numeric
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT ${SUM_OF_ITEMS} FROM jsonb_array_elements(items) AS item
      $$`);
    for (const table of TABLES) await addChecks(runner, table, CHECKS[table]);
    await addForeignKey(runner, {
      name: 'order_events_actor_id_fkey',
      table: 'order_events',
      column: 'actor_id',
      references: 'users',
    });
  }

  async down(runner: QueryRunner): Promise<void> {
    await dropConstraints(runner, 'order_events', ['order_events_actor_id_fkey'], ['users']);
    for (const table of TABLES) {
      await dropConstraints(runner, table, Object.keys(CHECKS[table]));
    }
    await runner.query(`DROP FUNCTION IF EXISTS order_total(jsonb)`);
  }
}
