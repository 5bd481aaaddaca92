-- For pgbench: the service's statement for one new report, as a transaction of its own.
-- Ids are new and grow over all clients; --define gives `start`, `clients` and the first `n`.
\set n :n + 1
\set number :start + :n * :clients + :client_id
INSERT INTO deliveries (message_id, recipient, fingerprint, rank, state, reason, status, statuscode,
    errcode, mcc_mnc, decided_at, first_received_at, last_received_at, conflicting, changed_in,
    times_received, source, query)
SELECT 'f' || lpad(to_hex(number), 13, '0'),
    '65' || lpad((number % 100000000 * 61803399 % 100000000)::text, 8, '0'),
    7266331722145912388, 5, 'delivered', NULL, 0, 'delivered',
    '1', '52099', received_at, received_at, received_at, false,
    (SELECT base FROM feed) + pg_current_xact_id()::text::bigint,
    1, '', ''
FROM (VALUES (:number::bigint, 1767225600000000 + :number::bigint)) AS given (number, received_at)
ON CONFLICT (message_id, recipient) DO NOTHING;
