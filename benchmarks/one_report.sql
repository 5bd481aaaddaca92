-- For pgbench: the service's statement for one report, as a transaction of its own.
-- Ids are new and grow over all clients; --define gives `start`, `clients` and the first `n`.
\set n :n + 1
\set number :start + :n * :clients + :client_id
WITH numbered AS (
    SELECT
        'f' || lpad(to_hex(number), 13, '0') AS message_id,
        '65' || lpad((number % 100000000 * 61803399 % 100000000)::text, 8, '0') AS recipient,
        1767225600000000 + number AS received_at
    FROM (VALUES (:number::bigint)) AS given (number)
),
status AS (
    INSERT INTO deliveries (message_id, recipient, fingerprint, rank, state, reason, status,
        statuscode, errcode, mcc_mnc, decided_at, first_received_at, last_received_at, conflicting,
        changed_in, times_received, source, query)
    SELECT message_id, recipient, 7266331722145912388, 5, 'delivered', NULL, 0,
        'delivered', '1', '52099', received_at, received_at, received_at, false,
        (SELECT base FROM feed) + pg_current_xact_id()::text::bigint, 1, '', ''
    FROM numbered
    ON CONFLICT (message_id, recipient) DO UPDATE SET
        rank = excluded.rank,
        decided_at = excluded.decided_at,
        fingerprint = excluded.fingerprint,
        state = excluded.state,
        reason = excluded.reason,
        status = excluded.status,
        statuscode = excluded.statuscode,
        errcode = excluded.errcode,
        mcc_mnc = excluded.mcc_mnc,
        conflicting = deliveries.conflicting OR
            (excluded.rank >= 4 AND deliveries.rank >= 4 AND excluded.state <> deliveries.state),
        changed_in = excluded.changed_in,
        first_received_at = least(excluded.first_received_at, deliveries.first_received_at),
        last_received_at = greatest(excluded.last_received_at, deliveries.last_received_at),
        times_received = CASE WHEN excluded.fingerprint = deliveries.fingerprint
            THEN deliveries.times_received + excluded.times_received END
    RETURNING message_id, recipient, times_received
)
INSERT INTO reports (message_id, recipient, fingerprint, received_at, last_received_at,
    times_received, state, reason, status, statuscode, errcode, mcc_mnc, source, query)
SELECT message_id, recipient, 7266331722145912388, received_at, received_at,
    1, 'delivered', NULL, 0, 'delivered', '1', '52099', '', ''
FROM numbered
WHERE ((message_id, recipient) IN (
    SELECT message_id, recipient FROM status WHERE times_received IS NULL
)) IS TRUE
ON CONFLICT (message_id, recipient, fingerprint) DO UPDATE SET
    times_received = reports.times_received + excluded.times_received,
    received_at = least(excluded.received_at, reports.received_at),
    last_received_at = greatest(excluded.last_received_at, reports.last_received_at);
