/** A schema as text, to compare schemas. */
import type { Client } from 'pg';

/**
 * Everything in the schema but TypeORM's list of migrations, one line of text for each part. Equal
 * schemas have equal lines.
 */
const SCHEMA = `
  -- Tables, indexes and sequences of the service.
  WITH relation AS (
    SELECT oid, relname AS name, relkind AS kind FROM pg_class
     WHERE relnamespace = 'public'::regnamespace
       AND relname NOT LIKE 'migrations%' AND relname NOT LIKE 'PK\\_%'
  ),
  -- Type, NOT NULL, identity and default of each column.
  table_column AS (
    SELECT name AS table_name, attname AS column_name, format_type(atttypid, atttypmod) AS type,
           attnotnull AS is_required, attidentity AS identity,
           pg_get_expr(adbin, adrelid) AS default_value
      FROM relation
      JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
      LEFT JOIN pg_attrdef ON adrelid = relation.oid AND adnum = attnum
     WHERE kind = 'r'
  )
  SELECT format('relation %s %s %s', kind, name, reloptions) AS part
    FROM relation JOIN pg_class USING (oid)
  UNION ALL
  SELECT format('rights %s %s', name, coalesce(relacl, acldefault('r', relowner)))
    FROM relation JOIN pg_class USING (oid) WHERE kind = 'r'
  UNION ALL
  SELECT 'column ' || to_jsonb(table_column)::text FROM table_column
  UNION ALL
  SELECT format('constraint %s %s %s', name, conname, pg_get_constraintdef(pg_constraint.oid))
    FROM relation JOIN pg_constraint ON conrelid = relation.oid
  UNION ALL
  SELECT format('index %s %s', pg_get_indexdef(indexrelid), indisvalid)
    FROM relation JOIN pg_index ON indexrelid = relation.oid
  UNION ALL
  SELECT format('trigger %s %s', pg_get_triggerdef(pg_trigger.oid), tgenabled)
    FROM relation JOIN pg_trigger ON tgrelid = relation.oid AND NOT tgisinternal
  UNION ALL
  SELECT 'function ' || pg_get_functiondef(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL
  SELECT 'sequence ' || to_jsonb(pg_sequences)::text
    FROM pg_sequences WHERE schemaname = 'public' AND sequencename NOT LIKE 'migrations%'
  ORDER BY 1`;

export async function schemaOf(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ part: string }>(SCHEMA);
  return rows.map(({ part }) => part);
}
