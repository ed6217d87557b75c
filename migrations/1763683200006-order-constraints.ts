/**
 * Constraints for what the write path guarantees: the items of an order and their sum, the form of
 * events and of password hashes, and that an idempotency key keeps successful responses only. Each
 * event gets a foreign key to its actor.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

/** A PHC string of argon2id: version, parameters, salt, hash. */
const PASSWORD_HASH_FORM =
  '^[$]argon2id[$]v=[0-9]+[$]m=[0-9]+,t=[0-9]+,p=[0-9]+' +
  '[$][A-Za-z0-9+/]{11,}[$][A-Za-z0-9+/]{16,}$';

const SUM_OF_ITEMS = `sum((item ->> 'quantity')::numeric * (item ->> 'unitPrice')::numeric)`;

/**
 * PostgreSQL checks the constraints of a table in the order of their names. So `orders_items_form`
 * can rely on the list that `orders_items_count` requires, and `orders_total_sum` on the numbers
 * that `orders_items_form` requires.
 */
const CHECKS: readonly (readonly [table: string, name: string, expression: string])[] = [
  [
    'orders',
    'orders_items_form',
    `items = jsonb_path_query_array(items, 'strict $[*] ? (@.sku like_regex "^.{1,64}$" flag "s"
      && @.name like_regex "^.{1,200}$" flag "s"
      && @.quantity.floor() == @.quantity && @.quantity >= 1 && @.quantity <= 10000
      && @.unitPrice.floor() == @.unitPrice && @.unitPrice >= 0 && @.unitPrice <= 1000000000000)')`,
  ],
  ['orders', 'orders_note_length', `length(note) <= 1000`],
  ['orders', 'orders_total_sum', `total = order_total(items)`],
  ['order_events', 'order_events_version_range', `version >= 1`],
  ['order_events', 'order_events_type_form', `type ~ '^order[.][a-z]+(-[a-z]+)*$'`],
  ['order_events', 'order_events_schema_range', `schema >= 1`],
  ['order_events', 'order_events_data_form', `jsonb_typeof(data) = 'object'`],
  ['credentials', 'credentials_password_hash_form', `password_hash ~ '${PASSWORD_HASH_FORM}'`],
  ['idempotency_keys', 'idempotency_keys_status_success', `status BETWEEN 200 AND 299`],
];

export class OrderConstraints1763683200006 implements MigrationInterface {
  readonly name = 'OrderConstraints1763683200006';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE FUNCTION order_total(items jsonb) RETURNS numeric
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT ${SUM_OF_ITEMS} FROM jsonb_array_elements(items) AS item
      $$`);
    for (const [table, name, expression] of CHECKS) {
      await runner.query(`ALTER TABLE ${table} ADD CONSTRAINT ${name} CHECK (${expression})`);
    }
    await runner.query(
      `ALTER TABLE order_events
         ADD CONSTRAINT order_events_actor_id_fkey
         FOREIGN KEY (actor_id) REFERENCES users (id)`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE order_events DROP CONSTRAINT order_events_actor_id_fkey`);
    for (const [table, name] of CHECKS) {
      await runner.query(`ALTER TABLE ${table} DROP CONSTRAINT ${name}`);
    }
    await runner.query(`DROP FUNCTION order_total(jsonb)`);
  }
}
