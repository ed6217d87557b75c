-- Two roles, so that the database itself holds what the service promises: the owner of the schema migrates (npm run migrate),
-- the service reads and writes rows and can change no table, trigger or function. The history of orders it can only add to.
--
-- Run as the owner of the schema, after every `npm run migrate`; then serve with MIGRATIONS=manual and DATABASE_URL naming the
-- service's role. The role is made first, by whoever may: CREATE ROLE holdfast_service LOGIN PASSWORD '…'
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO holdfast_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO holdfast_service;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO holdfast_service;
REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM holdfast_service;
REVOKE INSERT, UPDATE, DELETE ON migrations FROM holdfast_service;
