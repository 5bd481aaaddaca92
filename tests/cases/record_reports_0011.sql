WITH batch (message_id, recipient, fingerprint, query, source, received_at, rank, state, reason, status, statuscode, errcode, mcc_mnc, last_received_at, times_received) AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::smallint[], $8::text[], $9::text[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::integer[])
),
history AS (
    INSERT INTO reports (message_id, recipient, fingerprint, query, source, state, reason, status, statuscode, errcode, mcc_mnc,
    received_at, last_received_at, times_received)
    SELECT message_id, recipient, fingerprint, query, source, state, reason, status, statuscode, errcode, mcc_mnc,
        received_at, last_received_at, times_received
    FROM batch
    
ON CONFLICT (message_id, recipient, fingerprint) DO UPDATE SET
    times_received = reports.times_received + excluded.times_received,
    received_at = CASE WHEN reports.received_at IS NULL OR excluded.received_at < reports.received_at THEN excluded.received_at ELSE reports.received_at END,
    last_received_at = CASE WHEN reports.last_received_at = 0 OR CASE WHEN excluded.last_received_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.last_received_at - 2305843009213693952 ELSE excluded.last_received_at END > CASE WHEN reports.last_received_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN reports.last_received_at - 2305843009213693952 ELSE reports.last_received_at END THEN excluded.last_received_at ELSE reports.last_received_at END

)
INSERT INTO deliveries (message_id, recipient, fingerprint, rank, state, reason, status, statuscode, errcode, mcc_mnc,
    decided_at, first_received_at, last_received_at, conflicting, changed_in)
SELECT message_id, recipient, fingerprint, rank, state, reason, status, statuscode, errcode, mcc_mnc,
    last_received_at, received_at, last_received_at, false,
    (SELECT base FROM feed) + pg_current_xact_id()::text::bigint
FROM batch

ON CONFLICT (message_id, recipient) DO UPDATE SET
    fingerprint = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.fingerprint ELSE deliveries.fingerprint END,
    rank = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.rank ELSE deliveries.rank END,
    decided_at = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.decided_at ELSE deliveries.decided_at END,
    state = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.state ELSE deliveries.state END,
    reason = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.reason ELSE deliveries.reason END,
    status = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.status ELSE deliveries.status END,
    statuscode = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.statuscode ELSE deliveries.statuscode END,
    errcode = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.errcode ELSE deliveries.errcode END,
    mcc_mnc = CASE WHEN 
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) THEN excluded.mcc_mnc ELSE deliveries.mcc_mnc END,
    conflicting = deliveries.conflicting OR 
(excluded.rank >= 4 AND deliveries.rank >= 4
    AND excluded.state <> deliveries.state),
    changed_in = CASE WHEN 
(
(excluded.rank, CASE WHEN excluded.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.decided_at - 2305843009213693952 ELSE excluded.decided_at END, excluded.fingerprint)
    > (deliveries.rank, CASE WHEN deliveries.decided_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.decided_at - 2305843009213693952 ELSE deliveries.decided_at END, deliveries.fingerprint) AND (excluded.state <> deliveries.state
    OR excluded.fingerprint <> deliveries.fingerprint
    OR coalesce(excluded.reason, '') <> coalesce(deliveries.reason, ''))
    OR 
(excluded.rank >= 4 AND deliveries.rank >= 4
    AND excluded.state <> deliveries.state) AND NOT deliveries.conflicting) THEN excluded.changed_in ELSE deliveries.changed_in END,
    first_received_at = CASE WHEN deliveries.first_received_at IS NULL OR excluded.first_received_at < deliveries.first_received_at THEN excluded.first_received_at ELSE deliveries.first_received_at END,
    last_received_at = CASE WHEN deliveries.last_received_at = 0 OR CASE WHEN excluded.last_received_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN excluded.last_received_at - 2305843009213693952 ELSE excluded.last_received_at END > CASE WHEN deliveries.last_received_at > (extract(epoch FROM now()) * 1000000)::bigint + 60000000 THEN deliveries.last_received_at - 2305843009213693952 ELSE deliveries.last_received_at END THEN excluded.last_received_at ELSE deliveries.last_received_at END
