-- Two roles: the owner of the schema migrates it (holdfast migrate), and the service reads and writes
-- rows. The service's role can change no table, trigger or function. It can add to the history of
-- orders (order_events), but not change it.
--
-- First create the role, as a user that may: CREATE ROLE holdfast_service LOGIN PASSWORD '…'
-- Run this file as the owner of the schema, after every migration. Then start the service with
-- MIGRATIONS=manual and the service's role in DATABASE_URL.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO holdfast_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO holdfast_service;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO holdfast_service;
REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM holdfast_service;
REVOKE INSERT, UPDATE, DELETE ON migrations FROM holdfast_service;
