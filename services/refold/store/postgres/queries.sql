-- Every statement of the adapter, named; the schema comes from the connection's search_path.

-- name: ping
SELECT 1

-- name: server_version
SELECT split_part(current_setting('server_version'), ' ', 1)

-- name: find_tables
SELECT c.relname::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname = ANY ($2::text[])

-- name: find_emptied
-- The table that has lost rows which other tables refer to, or NULL; $1 is the number of partitions.
-- Every check stops at the first row, except those of the documents where journal or pages are empty.
SELECT CASE
    WHEN NOT EXISTS (SELECT FROM log) THEN CASE
        WHEN EXISTS (SELECT FROM shards) OR EXISTS (SELECT FROM checkpoints) OR EXISTS (SELECT FROM documents)
            OR EXISTS (SELECT FROM journal) OR EXISTS (SELECT FROM pages) OR EXISTS (SELECT FROM rejections)
            OR EXISTS (SELECT FROM namespaces)
        THEN 'log'
    END
    WHEN (SELECT count(*) FROM checkpoints) <> $1::bigint THEN 'checkpoints'
    WHEN (SELECT count(*) FROM shards, unnest(partitions)) <> $1::bigint THEN 'shards'
    WHEN EXISTS (SELECT FROM checkpoints WHERE applied + merged > 0) AND NOT EXISTS (SELECT FROM documents) THEN 'documents'
    WHEN EXISTS (SELECT FROM documents) AND NOT EXISTS (SELECT FROM namespaces) THEN 'namespaces'
    WHEN EXISTS (SELECT FROM checkpoints WHERE rejected > 0) AND NOT EXISTS (SELECT FROM rejections) THEN 'rejections'
    WHEN NOT EXISTS (SELECT FROM journal) AND EXISTS (SELECT FROM documents WHERE unpaged_events > 0) THEN 'journal'
    WHEN NOT EXISTS (SELECT FROM pages) AND EXISTS (SELECT FROM documents WHERE events > unpaged_events) THEN 'pages'
END

-- name: find_rows_of
-- Whether a document without a row has events.
SELECT EXISTS (SELECT FROM journal WHERE namespace = $1 AND document = $2)
    OR EXISTS (SELECT FROM pages WHERE namespace = $1 AND document = $2)

-- name: find_migrations
SELECT to_regclass('migrations') IS NOT NULL

-- name: newest_migration
SELECT coalesce(max(number), 0) FROM migrations

-- name: make_migrations
CREATE TABLE IF NOT EXISTS migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: add_migration
INSERT INTO migrations (number, name) VALUES ($1, $2)

-- name: lock_migrations
SELECT pg_advisory_xact_lock($1)

-- name: find_state_indexes
-- Indexes that read the column other than through refold_jsonb, or with $1 at all; the word in quoted text does not count.
SELECT i.indexrelid::regclass::text
FROM pg_index AS i
WHERE i.indrelid = 'documents'::regclass
    AND regexp_replace(
        concat(pg_get_expr(i.indexprs, i.indrelid), ' ', pg_get_expr(i.indpred, i.indrelid)),
        concat('''[^'']*''|state IS (NOT )?NULL', CASE WHEN NOT $1::boolean THEN '|refold_jsonb\(state\)' END), '', 'g'
    ) ~ '\mstate\M'

-- name: bind_log
INSERT INTO log (log_id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: find_schema
SELECT to_regnamespace(quote_ident($1)) IS NOT NULL

-- name: find_log
SELECT to_regclass('log') IS NOT NULL

-- name: bound_log_id
SELECT log_id FROM log

-- name: epoch
SELECT epoch FROM log

-- name: bound_log
SELECT log_id, epoch FROM log

-- name: key_checks
SELECT number, check_value FROM keys, log WHERE log_id = $1

-- name: add_key_check
INSERT INTO keys (number, check_value) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: remove_key_check
DELETE FROM keys WHERE number = $1

-- name: count_keys
-- Values by part, and by what they begin with: NULL where they are not encrypted.
SELECT 'documents.state' AS part, s.begin, count(*) AS values
FROM documents CROSS JOIN LATERAL (
    SELECT CASE
        WHEN starts_with(state::text, ' "encrypted:') THEN substring(decode(substr(state::text, 13, 8), 'base64') FROM 1 FOR 5)
    END AS begin
) AS s
WHERE state IS NOT NULL
GROUP BY s.begin
UNION ALL
SELECT v.part, CASE WHEN substring(v.begin FROM 1 FOR 1) = '\xa5' THEN v.begin END, count(*)
FROM (
    SELECT 'journal', substring(content FROM 1 FOR 5) FROM journal
    UNION ALL
    SELECT 'pages.snapshot', substring(snapshot FROM 1 FOR 5) FROM pages WHERE snapshot IS NOT NULL
    UNION ALL
    SELECT 'pages.payload', substring(payload FROM 1 FOR 5) FROM pages
    UNION ALL
    SELECT 'rejections', substring(content FROM 1 FOR 5) FROM rejections
) AS v (part, begin)
GROUP BY 1, 2

-- name: outdated_documents_keys
-- Rows whose value does not begin with $3; with NULL, those that have an encrypted one.
SELECT namespace, document FROM documents
WHERE (namespace, document) > ($1, $2) AND state IS NOT NULL AND CASE
    WHEN $3::bytea IS NULL THEN starts_with(state::text, ' "encrypted:')
    WHEN NOT starts_with(state::text, ' "encrypted:') THEN true
    ELSE substring(decode(substr(state::text, 13, 8), 'base64') FROM 1 FOR 5) <> $3
END
ORDER BY namespace, document
LIMIT $4

-- name: outdated_journal_keys
SELECT namespace, document, sequence FROM journal
WHERE (namespace, document, sequence) > ($1, $2, $3) AND CASE
    WHEN $4::bytea IS NULL THEN content IS NOT NULL
    ELSE content IS NULL OR substring(content FROM 1 FOR 5) <> $4
END
ORDER BY namespace, document, sequence
LIMIT $5

-- name: outdated_pages_keys
SELECT namespace, document, last_sequence FROM pages
WHERE (namespace, document, last_sequence) > ($1, $2, $3) AND CASE
    WHEN $4::bytea IS NULL THEN '\xa5' IN (substring(snapshot FROM 1 FOR 1), substring(payload FROM 1 FOR 1))
    ELSE substring(payload FROM 1 FOR 5) <> $4 OR substring(coalesce(snapshot, payload) FROM 1 FOR 5) <> $4
END
ORDER BY namespace, document, last_sequence
LIMIT $5

-- name: outdated_rejections_keys
SELECT partition, sequence FROM rejections
WHERE (partition, sequence) > ($1, $2) AND CASE
    WHEN $3::bytea IS NULL THEN content IS NOT NULL
    ELSE content IS NULL OR substring(content FROM 1 FOR 5) <> $3
END
ORDER BY partition, sequence
LIMIT $4

-- name: read_document
SELECT namespace, document, state FROM documents WHERE namespace = $1 AND document = $2 AND state IS NOT NULL

-- name: read_entry
SELECT * FROM journal WHERE namespace = $1 AND document = $2 AND sequence = $3

-- name: read_page
SELECT namespace, document, last_sequence, snapshot, payload FROM pages WHERE namespace = $1 AND document = $2 AND last_sequence = $3

-- name: read_rejection
SELECT * FROM rejections WHERE partition = $1 AND sequence = $2

-- name: replace_state
-- Only the value that was read is replaced, and only while the row of the key that the new one is encrypted with, if any,
-- is there.
WITH keyed AS (SELECT FROM keys WHERE number = $1 FOR KEY SHARE)
UPDATE documents SET state = $5
WHERE namespace = $2 AND document = $3 AND state::text = $4::json::text AND ($1::bigint IS NULL OR EXISTS (SELECT FROM keyed))

-- name: replace_entry
WITH keyed AS (SELECT FROM keys WHERE number = $1 FOR KEY SHARE)
UPDATE journal
SET subject = $6, headers = $7, body = $8, effect = $9, reason = $10, detail = $11, conflict = $12, content = $13
WHERE namespace = $2 AND document = $3 AND sequence = $4 AND content IS NOT DISTINCT FROM $5
    AND ($1::bigint IS NULL OR EXISTS (SELECT FROM keyed))

-- name: replace_page
WITH keyed AS (SELECT FROM keys WHERE number = $1 FOR KEY SHARE)
UPDATE pages SET snapshot = $7, payload = $8
WHERE namespace = $2 AND document = $3 AND last_sequence = $4 AND snapshot IS NOT DISTINCT FROM $5 AND payload = $6
    AND ($1::bigint IS NULL OR EXISTS (SELECT FROM keyed))

-- name: replace_rejection
WITH keyed AS (SELECT FROM keys WHERE number = $1 FOR KEY SHARE)
UPDATE rejections SET detail = $5, about = $6, subject = $7, headers = $8, body = $9, content = $10
WHERE partition = $2 AND sequence = $3 AND content IS NOT DISTINCT FROM $4
    AND ($1::bigint IS NULL OR EXISTS (SELECT FROM keyed))

-- name: make_checkpoints
INSERT INTO checkpoints (partition, chain, chain_before, last_sequence, applied, merged, rejected, duplicate)
SELECT *
FROM unnest(
    $1::smallint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]
)
ON CONFLICT DO NOTHING

-- name: make_shard
-- One shard of all partitions, unless there is one.
INSERT INTO shards (partitions, fold, read_sequence, recorded_at)
SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM shards)

-- name: checkpoints
SELECT
    c.partition, c.chain, c.chain_before, s.fold, s.read_sequence, c.last_sequence, s.recorded_at,
    c.applied, c.merged, c.rejected, c.duplicate
FROM checkpoints AS c JOIN shards AS s ON c.partition = ANY (s.partitions)
ORDER BY c.partition

-- name: folded_sequences
SELECT p::integer AS partition, read_sequence FROM shards, unnest(partitions) AS p

-- name: lock_log
SELECT FROM log FOR UPDATE

-- name: regroup_shards
-- Make the partitions $1 a shard if all of them are at $2; the others of their former shards stay together.
WITH former AS (
    DELETE FROM shards WHERE partitions && $1::smallint[] AND partitions <> $1 AND read_sequence = $2
    RETURNING *
),
others AS (
    INSERT INTO shards (partitions, fold, read_sequence, recorded_at)
    SELECT ARRAY(SELECT p FROM unnest(f.partitions) AS p WHERE p <> ALL ($1) ORDER BY p), fold, read_sequence, recorded_at
    FROM former AS f
    WHERE NOT f.partitions <@ $1
)
INSERT INTO shards (partitions, fold, read_sequence, recorded_at)
SELECT $1, max(fold), $2, max(recorded_at)
FROM former, unnest(partitions) AS p
WHERE p = ANY ($1)
HAVING count(*) = cardinality($1)

-- name: lock_shard
SELECT pg_try_advisory_lock($1)

-- name: end_silent_holder
-- A backend that waits for its client (idle, within a transaction, in a COPY) shows that the client is silent;
-- one that executes a statement, or waits for a lock or the disk, is not ended. Materialized, so that no other is ended.
WITH silent AS MATERIALIZED (
    SELECT
        a.pid, a.state,
        extract(epoch FROM clock_timestamp() - a.state_change)::double precision AS silent_seconds
    FROM pg_locks AS l
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.classid::bigint << 32) | l.objid::bigint = $1::bigint
        AND a.wait_event_type = 'Client'
        AND a.state_change <= clock_timestamp() - make_interval(secs => $2::double precision)
)
SELECT pid, state, silent_seconds, pg_terminate_backend(pid, $3::bigint) AS is_ended FROM silent

-- name: make_changed_documents
-- LIKE does not copy the storage parameters.
CREATE TEMPORARY TABLE IF NOT EXISTS changed_documents (LIKE documents, has_state boolean NOT NULL)
WITH (toast_tuple_target = 4400)
ON COMMIT DELETE ROWS

-- name: commit_synchronously
SET LOCAL synchronous_commit = on

-- name: write_commit
-- The fence: the shard of the partitions $1 advances, and partitions with events ($7 and later) get their checkpoints.
-- Every commit reads the log's row first, whose table a rebuild locks while it swaps. The epoch fences a projector that was
-- bound to the projection that a rebuild has replaced. The row of the key that values are encrypted with, if any ($58), is
-- locked, so that it is there until they are stored.
-- After the fence: few documents (new ones: $32) and events in the same round trip, and the counts. An omitted
-- state ($31) is not written again: the new row refers to the same bytes, of the version that the row had then.
WITH held AS (SELECT FROM log WHERE epoch = $6 FOR SHARE),
keyed AS (SELECT FROM keys WHERE number = $58 FOR KEY SHARE),
fence AS (
    UPDATE shards SET read_sequence = $3, recorded_at = $4, fold = $5
    FROM held
    WHERE partitions = $1::smallint[] AND read_sequence = $2 AND ($58::bigint IS NULL OR EXISTS (SELECT FROM keyed))
    RETURNING 1
),
linked AS (
    UPDATE checkpoints AS c
    SET
        chain = n.chain, chain_before = n.chain_before, last_sequence = n.last_sequence,
        applied = n.applied, merged = n.merged, rejected = n.rejected, duplicate = n.duplicate
    FROM fence, unnest(
        $7::smallint[], $8::bytea[], $9::bytea[], $10::bigint[],
        $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]
    ) AS n (partition, chain, chain_before, last_sequence, applied, merged, rejected, duplicate)
    WHERE c.partition = n.partition
),
given AS (
    SELECT *
    FROM unnest(
        $15::text[], $16::text[], $17::smallint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[],
        $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::bigint[],
        $30::json[], $31::boolean[], $32::boolean[]
    ) AS n (
        namespace, document, partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at,
        occurred_at, occurred_max, events, unpaged_events, unpaged_bytes, page_bytes, size, state, has_state, is_new
    )
),
changed AS (
    UPDATE documents AS d
    SET
        version = n.version, version_sequence = n.version_sequence,
        last_sequence = n.last_sequence, last_recorded_at = n.last_recorded_at,
        recorded_at = n.recorded_at, occurred_at = n.occurred_at, occurred_max = n.occurred_max,
        events = n.events, unpaged_events = n.unpaged_events, unpaged_bytes = n.unpaged_bytes,
        page_bytes = n.page_bytes, size = n.size,
        state = CASE WHEN n.has_state THEN n.state ELSE d.state END,
        state_version = CASE WHEN NOT n.has_state THEN nullif(coalesce(d.state_version, d.version), n.version) END
    FROM given AS n, fence
    WHERE d.namespace = n.namespace AND d.document = n.document AND NOT n.is_new
    RETURNING 1
),
made AS (
    INSERT INTO documents (
        namespace, document, partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at,
        occurred_at, occurred_max, events, unpaged_events, unpaged_bytes, page_bytes, size, state
    )
    SELECT
        namespace, document, partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at,
        occurred_at, occurred_max, events, unpaged_events, unpaged_bytes, page_bytes, size, state
    FROM given, fence
    WHERE is_new
),
kept AS (
    INSERT INTO journal (
        namespace, document, sequence, time, recorded_at, occurred_at, version, status, kind, is_creation,
        subject, headers, body, effect, reason, detail, identity, first_sequence, conflict, content
    )
    SELECT k.*
    FROM fence, unnest(
        $33::text[], $34::text[], $35::bigint[], $36::bigint[], $37::bigint[], $38::bigint[], $39::bigint[],
        $40::smallint[], $41::smallint[], $42::boolean[], $43::bytea[], $44::bytea[], $45::bytea[], $46::bytea[],
        $47::text[], $48::text[], $49::bytea[], $50::bigint[], $51::bytea[], $52::bytea[]
    ) AS k
),
counted AS (
    INSERT INTO namespaces AS n (partition, namespace, documents, events)
    SELECT $53::smallint, k.* FROM fence, unnest($54::text[], $55::bigint[], $56::bigint[]) AS k
    ON CONFLICT (namespace, partition) DO UPDATE
    SET documents = n.documents + excluded.documents, events = n.events + excluded.events
)
SELECT changed_all((SELECT count(*) FROM changed), $57) FROM fence

-- name: changed_all
SELECT changed_all($1, $2)

-- name: update_documents
UPDATE documents AS d
SET
    version = n.version, version_sequence = n.version_sequence,
    last_sequence = n.last_sequence, last_recorded_at = n.last_recorded_at,
    recorded_at = n.recorded_at, occurred_at = n.occurred_at, occurred_max = n.occurred_max,
    events = n.events, unpaged_events = n.unpaged_events, unpaged_bytes = n.unpaged_bytes,
    page_bytes = n.page_bytes, size = n.size,
    state = CASE WHEN n.has_state THEN n.state ELSE d.state END,
    state_version = CASE WHEN NOT n.has_state THEN nullif(coalesce(d.state_version, d.version), n.version) END
FROM changed_documents AS n
WHERE d.namespace = n.namespace AND d.document = n.document

-- name: read_journal
SELECT j.*
FROM unnest($1::text[], $2::text[]) AS k (namespace, document)
JOIN journal AS j ON j.namespace = k.namespace AND j.document = k.document
ORDER BY j.sequence

-- name: delete_journal
-- The number of rows that each document had.
WITH deleted AS (
    DELETE FROM journal AS j
    USING unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (namespace, document, number)
    WHERE j.namespace = k.namespace AND j.document = k.document
    RETURNING k.number
)
SELECT number, count(*) AS events FROM deleted GROUP BY number

-- name: load_documents
-- Heads with their dedup windows: the journal's identities, and those of the last pages that together hold $3 ids
-- within $4 events. States only if $5 is true and the row has the newest. A document with events but a lost row is
-- returned without a version. Scalar subqueries, which the planner never hashes, so that no table is read whole.
SELECT
    k.namespace, k.document, d.partition, d.version, d.version_sequence, d.last_sequence, d.last_recorded_at,
    d.recorded_at, d.occurred_at, d.occurred_max, d.events, d.unpaged_events, d.unpaged_bytes, d.page_bytes,
    d.size, d.state_version, CASE WHEN $5 AND d.state_version IS NULL THEN d.state END AS state,
    (
        SELECT string_agg(w.identities, ''::bytea ORDER BY w.last_sequence)
        FROM (
            SELECT
                p.last_sequence, p.identities,
                sum(p.ids) OVER (ORDER BY p.last_sequence DESC) - p.ids AS newer_ids
            FROM pages AS p
            WHERE p.namespace = d.namespace AND p.document = d.document AND p.ids > 0
                AND p.last_sequence > (
                    SELECT coalesce(max(q.last_sequence), 0) FROM pages AS q
                    WHERE q.namespace = d.namespace AND q.document = d.document
                        AND q.events <= d.events - $4::bigint
                )
        ) AS w
        WHERE w.newer_ids < $3::bigint
    ) AS paged_identities,
    ARRAY(
        SELECT j.identity FROM journal AS j
        WHERE j.namespace = d.namespace AND j.document = d.document AND j.identity IS NOT NULL
        ORDER BY j.sequence
    ) AS journal_identities
FROM unnest($1::text[], $2::text[]) AS k (namespace, document)
LEFT JOIN documents AS d ON d.namespace = k.namespace AND d.document = k.document
WHERE d.version IS NOT NULL
    OR (SELECT true FROM journal AS j WHERE j.namespace = k.namespace AND j.document = k.document LIMIT 1)
    OR (SELECT true FROM pages AS p WHERE p.namespace = k.namespace AND p.document = k.document LIMIT 1)

-- name: heads
-- The rows of some documents, without states of more than $4 stored bytes, states that are older than their row, and those
-- of present documents at the version $3 (-1: at any). The arrays are in SELECTs so that the planner does not see their
-- length, and keeps one plan. A document with events but a lost row is returned without a version.
SELECT
    k.number::integer AS number, s.fits, k.namespace, k.document, d.version, d.version_sequence, d.last_sequence,
    d.recorded_at, d.occurred_at, d.occurred_max, d.state_version, o.is_omitted,
    CASE WHEN s.fits AND d.state_version IS NULL AND NOT o.is_omitted THEN d.state END AS state
FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::bigint[]))
    WITH ORDINALITY AS k (namespace, document, known_version, number)
LEFT JOIN documents AS d ON d.namespace = k.namespace AND d.document = k.document
CROSS JOIN LATERAL (
    SELECT coalesce(k.known_version IN (-1, d.version) AND d.state IS NOT NULL, false) AS is_omitted
) AS o
CROSS JOIN LATERAL (
    SELECT
        o.is_omitted OR d.state_version IS NOT NULL OR coalesce(pg_column_size(d.state), 0) <= $4::integer AS fits
) AS s
WHERE d.version IS NOT NULL
    OR (SELECT true FROM journal AS j WHERE j.namespace = k.namespace AND j.document = k.document LIMIT 1)
    OR (SELECT true FROM pages AS p WHERE p.namespace = k.namespace AND p.document = k.document LIMIT 1)

-- name: other_versions
--- The versions of those documents that are not at the version and sequence that are given. The first array is in a SELECT
--- so that the planner keeps one plan.
SELECT
    k.namespace, k.document, coalesce(d.version, 0) AS version, coalesce(d.version_sequence, 0) AS sequence
FROM unnest((SELECT $1::text[]), $2::text[], $3::bigint[], $4::bigint[]) AS k (namespace, document, version, sequence)
LEFT JOIN documents AS d ON d.namespace = k.namespace AND d.document = k.document
WHERE coalesce(d.version, 0) <> k.version OR coalesce(d.version_sequence, 0) <> k.sequence

-- name: exact_documents
-- Rows with everything for their exact states: the row's own state, or the last page's snapshot where that is newer, and the
-- journal after it. One statement, for a consistent view.
SELECT
    d.namespace, d.document, d.version, d.version_sequence, d.last_sequence, d.recorded_at, d.occurred_at,
    d.occurred_max, d.state_version, p.last_sequence AS base_sequence, p.snapshot,
    CASE WHEN p.version IS NULL THEN d.state END AS state,
    coalesce(p.version, d.state_version) AS base_version,
    ARRAY(
        SELECT j FROM journal AS j
        WHERE j.namespace = d.namespace AND j.document = d.document
            AND j.version > greatest(d.state_version, p.version) AND d.state_version IS NOT NULL
        ORDER BY j.sequence
    ) AS journal
FROM unnest($1::text[], $2::text[]) AS k (namespace, document)
JOIN documents AS d ON d.namespace = k.namespace AND d.document = k.document
LEFT JOIN LATERAL (
    SELECT o.*
    FROM (
        SELECT q.version, q.last_sequence, q.snapshot FROM pages AS q
        WHERE q.namespace = d.namespace AND q.document = d.document
        ORDER BY q.last_sequence DESC
        LIMIT 1
    ) AS o
    WHERE o.version > d.state_version
) AS p ON true

-- name: outdated_documents
SELECT namespace, document
FROM documents
WHERE (namespace, document) > ($1, $2) AND state_version IS NOT NULL
ORDER BY namespace, document
LIMIT $3

-- name: flush_state
-- There may be newer versions since the state, of version $4, was read, or a newer state. False, and nothing is written, where
-- the row of the key that the state is encrypted with, if any ($5), is missing.
WITH keyed AS (SELECT FROM keys WHERE number = $5 FOR KEY SHARE),
written AS (
    UPDATE documents
    SET state = $3, state_version = nullif($4, version)
    WHERE namespace = $1 AND document = $2 AND state_version < $4 AND ($5::bigint IS NULL OR EXISTS (SELECT FROM keyed))
)
SELECT $5 IS NULL OR EXISTS (SELECT FROM keyed)

-- name: points
-- Documents as they were at points, each of which is a bound on one clock, or on several. The head if it is within the bounds
-- and has the newest state. Else, from two neighbouring rows, the last page that ends within the bounds (the base; without
-- one it is version 0) and the page after that; and where there is none, of the journal the number of events, of effective
-- ones, and those of them within the bounds (but of occurred times, whose maximum counts). Values of more than $7 stored
-- bytes are left out. The arrays are in SELECTs so that the planner keeps one plan, as in `heads`. A document with events
-- but a lost row is returned without a version.
SELECT
    k.number::integer, s.fits,
    h.is_head, d.version, d.version_sequence, d.recorded_at, d.occurred_at, d.occurred_max,
    CASE WHEN h.is_head AND s.fits THEN d.state END AS state,
    b.last_sequence AS base_sequence, b.version AS base_version, b.version_sequence AS base_version_sequence,
    b.recorded_at AS base_recorded_at, b.occurred_at AS base_occurred_at, b.occurred_max AS base_occurred_max,
    coalesce(b.events, 0) AS base_events, CASE WHEN s.fits THEN b.snapshot END AS snapshot,
    p.last_sequence AS page_sequence, CASE WHEN s.fits THEN p.payload END AS payload,
    coalesce(p.events, d.events) AS events, d.events - d.unpaged_events AS paged_events,
    j.*
FROM unnest(
    (SELECT $1::text[]), (SELECT $2::text[]),
    (SELECT $3::bigint[]), (SELECT $4::bigint[]), (SELECT $5::bigint[]), (SELECT $6::bigint[])
) WITH ORDINALITY AS k (namespace, document, version, version_sequence, recorded_at, occurred_max, number)
LEFT JOIN documents AS d ON d.namespace = k.namespace AND d.document = k.document
CROSS JOIN LATERAL (
    SELECT d.version <= k.version AND d.version_sequence <= k.version_sequence AND d.recorded_at <= k.recorded_at
        AND d.occurred_max <= k.occurred_max AND d.state_version IS NULL AS is_head
) AS h
LEFT JOIN LATERAL (
    SELECT q.* FROM pages AS q
    WHERE NOT h.is_head AND q.namespace = k.namespace AND q.document = k.document
        AND q.version <= k.version AND q.version_sequence <= k.version_sequence
        AND q.recorded_at <= k.recorded_at AND q.occurred_max <= k.occurred_max
    ORDER BY q.last_sequence DESC
    LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
    SELECT q.events, q.last_sequence, q.payload FROM pages AS q
    WHERE NOT h.is_head AND q.namespace = k.namespace AND q.document = k.document
        AND q.last_sequence > coalesce(b.last_sequence, 0)
    ORDER BY q.last_sequence
    LIMIT 1
) AS p ON true
CROSS JOIN LATERAL (
    SELECT $7::integer >= CASE
        WHEN h.is_head THEN coalesce(pg_column_size(d.state), 0)
        ELSE coalesce(octet_length(b.snapshot), 0) + coalesce(octet_length(p.payload), d.unpaged_bytes, 0)
    END AS fits
) AS s
CROSS JOIN LATERAL (
    SELECT
        count(*) AS journal_events, count(*) FILTER (WHERE t.status <= 1) AS journal_effective,
        array_agg(t.sequence) FILTER (WHERE t.is_before) AS journal_sequence,
        array_agg(t.recorded_at) FILTER (WHERE t.is_before) AS journal_recorded_at,
        array_agg(t.occurred_at) FILTER (WHERE t.is_before) AS journal_occurred_at,
        array_agg(t.version) FILTER (WHERE t.is_before) AS journal_version,
        array_agg(t.kind) FILTER (WHERE t.is_before) AS journal_kind,
        array_agg(t.headers) FILTER (WHERE t.is_before) AS journal_headers,
        array_agg(t.body) FILTER (WHERE t.is_before) AS journal_body,
        array_agg(t.effect) FILTER (WHERE t.is_before) AS journal_effect,
        array_agg(t.content) FILTER (WHERE t.is_before) AS journal_content
    FROM (
        SELECT
            sequence, recorded_at, occurred_at, version, status, kind, headers, body, effect, content,
            status <= 1 AND version <= k.version AND sequence <= k.version_sequence
                AND recorded_at <= k.recorded_at AS is_before
        FROM journal AS i
        WHERE p.events IS NULL AND NOT h.is_head AND s.fits
            AND i.namespace = k.namespace AND i.document = k.document
        ORDER BY i.sequence
    ) AS t
) AS j
WHERE d.version IS NOT NULL
    OR (SELECT true FROM journal AS i WHERE i.namespace = k.namespace AND i.document = k.document LIMIT 1)
    OR (SELECT true FROM pages AS q WHERE q.namespace = k.namespace AND q.document = k.document LIMIT 1)

-- name: segment
-- The segment that holds a point, from two neighbouring rows: its base is the last page that ends within every bound (without
-- one it is version 0), its entries are those of the page after that, or the journal's. One statement, for a consistent
-- view. The counts show whether rows are missing.
SELECT
    b.last_sequence AS base_sequence, b.version AS base_version, b.version_sequence AS base_version_sequence,
    b.recorded_at AS base_recorded_at, b.occurred_at AS base_occurred_at, b.occurred_max AS base_occurred_max,
    coalesce(b.events, 0) AS base_events, b.snapshot, p.last_sequence AS page_sequence, p.payload,
    CASE WHEN p.payload IS NULL THEN ARRAY(
        SELECT j FROM journal AS j WHERE j.namespace = $1 AND j.document = $2 ORDER BY j.sequence
    ) END AS journal,
    coalesce(p.events, d.events) AS events, d.events - d.unpaged_events AS paged_events
FROM documents AS d
LEFT JOIN LATERAL (
    SELECT * FROM pages
    WHERE namespace = $1 AND document = $2
        AND last_sequence <= $3 AND version <= $4 AND version_sequence <= $5 AND recorded_at <= $6 AND occurred_max <= $7
    ORDER BY last_sequence DESC
    LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
    SELECT events, last_sequence, payload FROM pages
    WHERE namespace = $1 AND document = $2 AND last_sequence > coalesce(b.last_sequence, 0)
    ORDER BY last_sequence
    LIMIT 1
) AS p ON true
WHERE d.namespace = $1 AND d.document = $2

-- name: entry
SELECT
    p.last_sequence AS page_sequence, p.payload,
    ARRAY(
        SELECT j FROM journal AS j WHERE j.namespace = $1 AND j.document = $2 AND j.sequence = $3
    ) AS journal
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT q.last_sequence, q.payload FROM pages AS q
    WHERE q.namespace = $1 AND q.document = $2 AND q.last_sequence >= $3
    ORDER BY q.last_sequence
    LIMIT 1
) AS p ON true

-- name: entries_between
-- The effective events of the documents $2 after sequence $3 up to $4: the pages that may have some, each once, and rows of
-- the journal. `fits` counts what is read up to $5 bytes, by document; the first always fits. An ORDER BY in each subquery
-- makes the planner look each document up: without it, it reads the whole range of the namespace.
SELECT
    r.number::integer, r.fits, r.page_sequence,
    CASE WHEN r.fits THEN r.payload END AS payload,
    CASE WHEN r.fits THEN r.entry END AS entry
FROM (
    SELECT u.*, sum(u.bytes) OVER (ORDER BY u.number) <= $5::bigint OR u.number = 1 AS fits
    FROM (
        SELECT k.number, p.last_sequence AS page_sequence, p.payload, NULL::journal AS entry, octet_length(p.payload) AS bytes
        FROM unnest((SELECT $2::text[])) WITH ORDINALITY AS k (document, number)
        CROSS JOIN LATERAL (
            SELECT q.last_sequence, q.payload
            FROM pages AS q
            WHERE q.namespace = $1 AND q.document = k.document AND q.last_sequence > $3
                AND q.last_sequence <= coalesce(
                    (
                        SELECT l.last_sequence
                        FROM pages AS l
                        WHERE l.namespace = $1 AND l.document = k.document AND l.last_sequence >= $4
                        ORDER BY l.last_sequence
                        LIMIT 1
                    ),
                    $4
                )
            ORDER BY q.last_sequence
        ) AS p
        UNION ALL
        SELECT k.number, NULL, NULL, e.entry, e.bytes
        FROM unnest((SELECT $2::text[])) WITH ORDINALITY AS k (document, number)
        CROSS JOIN LATERAL (
            SELECT
                j AS entry,
                octet_length(j.body) + octet_length(j.headers) + coalesce(octet_length(j.effect), 0)
                + coalesce(octet_length(j.content), 0) AS bytes
            FROM journal AS j
            WHERE j.namespace = $1 AND j.document = k.document AND j.sequence > $3 AND j.sequence <= $4 AND j.status <= 1
            ORDER BY j.sequence
        ) AS e
    ) AS u
) AS r
ORDER BY r.number

-- name: list_documents
-- `fits` counts the states' bytes up to $6; the first always fits. One row more than wanted shows that there is a next one.
-- Of documents whose state is older than their row, those in $8 match the path $7; their states are omitted. With $9, so are
-- all, and all fit.
SELECT
    l.namespace, l.document, l.version, l.version_sequence, l.last_sequence,
    l.recorded_at, l.occurred_at, l.occurred_max, l.state_version, l.fits,
    CASE WHEN l.fits AND l.state_version IS NULL AND NOT $9::boolean THEN l.state END AS state
FROM (
    SELECT d.*, $9::boolean OR sum(d.size) OVER w <= $6::bigint OR row_number() OVER w = 1 AS fits
    FROM documents AS d
    WHERE d.namespace = $1 AND d.document > $2 AND d.document >= $3 AND d.document < $4
        AND d.state IS NOT NULL
        AND (
            $7::text IS NULL
            OR d.state_version IS NULL AND refold_jsonb(d.state) @@ $7::text::jsonpath
            OR d.document = ANY ($8::text[])
        )
    WINDOW w AS (ORDER BY d.document)
    ORDER BY d.document
    LIMIT $5
) AS l
ORDER BY l.document

-- name: count_documents
SELECT coalesce(sum(documents), 0)::bigint FROM namespaces WHERE namespace = $1

-- name: list_outdated
SELECT d.document
FROM documents AS d
WHERE d.namespace = $1 AND d.document > $2 AND d.document >= $3 AND d.document < $4 AND d.state_version IS NOT NULL
ORDER BY d.document

-- name: list_matching_nul
-- Documents with U+0000 anywhere, which refold_jsonb cannot convert, that match the path $5. The text is searched first:
-- that costs a third of a conversion, and few documents need one.
SELECT d.document
FROM documents AS d
WHERE d.namespace = $1 AND d.document > $2 AND d.document >= $3 AND d.document < $4
    AND d.state IS NOT NULL AND d.state_version IS NULL
    AND strpos(d.state::text, '\u0000') > 0
    AND refold_jsonb(d.state) IS NULL
    AND refold_searchable(d.state, $5::text) @@ $5::text::jsonpath
ORDER BY d.document
LIMIT $6

-- name: match_state
SELECT coalesce(refold_jsonb($1::json), refold_searchable($1::json, $2::text)) @@ $2::text::jsonpath

-- name: is_predicate
-- Whether a path is a predicate, as `@@` requires: it returns one item for any value, true, false or unknown.
SELECT jsonb_path_query_array('{}'::jsonb, $1::text::jsonpath, silent => true) IN ('[true]', '[false]', '[null]')

-- name: list_names
SELECT d.document, d.version, d.recorded_at, d.state IS NOT NULL
FROM documents AS d
WHERE d.namespace = $1 AND d.document > $2 AND d.document >= $3 AND d.document < $4 AND d.version > 0
ORDER BY d.document
LIMIT $5

-- name: list_at
-- A batch of documents as of a point, whose bounds are $7 to $9. A head within them that has the newest state is the answer
-- (an absent one is omitted); the others are returned with the segment that holds the point, as `segment` reads it, and of
-- the journal only what is up to there. `fits` counts what is read up to $6 bytes; the first always fits.
SELECT
    l.namespace, l.document, l.is_head, l.fits,
    l.version, l.version_sequence, l.last_sequence, l.recorded_at, l.occurred_at, l.occurred_max,
    CASE WHEN l.fits AND l.is_head THEN l.state END AS state,
    l.base_sequence, l.base_version, l.base_version_sequence, l.base_recorded_at,
    l.base_occurred_at, l.base_occurred_max, coalesce(l.base_events, 0) AS base_events,
    CASE WHEN l.fits THEN l.snapshot END AS snapshot,
    l.page_sequence, CASE WHEN l.fits THEN l.payload END AS payload,
    CASE WHEN l.fits AND NOT l.is_head AND l.payload IS NULL THEN ARRAY(
        SELECT j FROM journal AS j
        WHERE j.namespace = l.namespace AND j.document = l.document
            AND j.sequence <= $7 AND j.recorded_at <= $8
        ORDER BY j.sequence
    ) END AS journal,
    coalesce(l.page_events, l.events) AS events, l.events - l.unpaged_events AS paged_events
FROM (
    SELECT
        h.*, b.*, p.*,
        row_number() OVER w = 1 OR $6::bigint >= sum(
            CASE
                WHEN h.is_head THEN h.size
                ELSE coalesce(octet_length(b.snapshot), 0) + coalesce(octet_length(p.payload), h.unpaged_bytes)
            END
        ) OVER w AS fits
    FROM (
        SELECT *
        FROM (
            SELECT
                d.*,
                d.version_sequence <= $7 AND d.recorded_at <= $8 AND d.occurred_max <= $9
                AND d.state_version IS NULL AS is_head
            FROM documents AS d
        ) AS d
        WHERE d.namespace = $1 AND d.document > $2 AND d.document >= $3 AND d.document < $4
            AND d.version > 0 AND (d.state IS NOT NULL OR NOT d.is_head)
        ORDER BY d.document
        LIMIT $5
    ) AS h
    LEFT JOIN LATERAL (
        SELECT
            q.last_sequence AS base_sequence, q.version AS base_version, q.version_sequence AS base_version_sequence,
            q.recorded_at AS base_recorded_at, q.occurred_at AS base_occurred_at, q.occurred_max AS base_occurred_max,
            q.events AS base_events, q.snapshot
        FROM pages AS q
        WHERE NOT h.is_head AND q.namespace = h.namespace AND q.document = h.document
            AND q.version_sequence <= $7 AND q.recorded_at <= $8 AND q.occurred_max <= $9
        ORDER BY q.last_sequence DESC
        LIMIT 1
    ) AS b ON true
    LEFT JOIN LATERAL (
        SELECT q.events AS page_events, q.last_sequence AS page_sequence, q.payload
        FROM pages AS q
        WHERE NOT h.is_head AND q.namespace = h.namespace AND q.document = h.document
            AND q.last_sequence > coalesce(b.base_sequence, 0)
        ORDER BY q.last_sequence
        LIMIT 1
    ) AS p ON true
    WINDOW w AS (ORDER BY h.document)
) AS l
ORDER BY l.document

-- name: limit_statement
SELECT set_config('statement_timeout', $1, true)

-- name: rejections
SELECT * FROM rejections
WHERE namespace = $1 AND document = $2 AND sequence < $3
ORDER BY sequence DESC
LIMIT $4

-- name: rejections_of_namespace
SELECT * FROM rejections
WHERE namespace = $1 AND sequence < $2
ORDER BY sequence DESC
LIMIT $3

-- name: rejections_of_all
SELECT * FROM rejections
WHERE sequence < $1
ORDER BY sequence DESC
LIMIT $2

-- name: resolve_rejections
UPDATE rejections AS r
SET resolved_by = n.resolved_by
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[])
    AS n (namespace, document, partition, sequence, resolved_by)
WHERE r.partition = n.partition AND r.sequence = n.sequence AND r.namespace = n.namespace AND r.document = n.document
    AND r.reason = 'needs_resolution' AND r.resolved_by IS NULL

-- name: open_conflicts_after
SELECT * FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL AND ($1::text IS NULL OR namespace = $1) AND sequence > $2
ORDER BY sequence
LIMIT $3

-- name: open_conflicts_before
SELECT * FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL AND ($1::text IS NULL OR namespace = $1) AND sequence < $2
ORDER BY sequence DESC
LIMIT $3

-- name: open_conflicts_after_of_document
SELECT * FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL AND namespace = $1 AND document = $2 AND sequence > $3
ORDER BY sequence
LIMIT $4

-- name: open_conflicts_before_of_document
SELECT * FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL AND namespace = $1 AND document = $2 AND sequence < $3
ORDER BY sequence DESC
LIMIT $4

-- name: conflicts_after
-- The first page with conflicts that ends after $3; without one, the entries of the journal that have one. In one statement,
-- because entries move from the journal to a page.
SELECT
    p.last_sequence, p.last_sequence AS page_sequence, p.payload,
    CASE WHEN p.payload IS NULL THEN ARRAY(
        SELECT j FROM journal AS j
        WHERE j.namespace = $1 AND j.document = $2 AND j.sequence > $3 AND j.conflict IS NOT NULL
        ORDER BY j.sequence
    ) END AS journal
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT last_sequence, payload FROM pages
    WHERE namespace = $1 AND document = $2 AND last_sequence > $3 AND conflicts > 0
    ORDER BY last_sequence
    LIMIT 1
) AS p ON true

-- name: conflicts_before
-- The entries of the journal before $3 that have a conflict, and the last page with conflicts that begins before $3;
-- `base_sequence` is the end of the page before it.
SELECT
    p.last_sequence, p.last_sequence AS page_sequence, p.payload,
    ARRAY(
        SELECT j FROM journal AS j
        WHERE j.namespace = $1 AND j.document = $2 AND j.sequence < $3::bigint AND j.conflict IS NOT NULL
        ORDER BY j.sequence
    ) AS journal,
    (
        SELECT max(q.last_sequence) FROM pages AS q
        WHERE q.namespace = $1 AND q.document = $2 AND q.last_sequence < p.last_sequence
    ) AS base_sequence
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT last_sequence, payload FROM pages
    WHERE namespace = $1 AND document = $2 AND conflicts > 0 AND last_sequence <= coalesce(
        (
            SELECT min(q.last_sequence) FROM pages AS q
            WHERE q.namespace = $1 AND q.document = $2 AND q.last_sequence >= $3::bigint - 1
        ),
        $3::bigint
    )
    ORDER BY last_sequence DESC
    LIMIT 1
) AS p ON true

-- name: namespaces
SELECT namespace, sum(documents)::bigint AS documents, sum(events)::bigint AS events
FROM namespaces
GROUP BY namespace
ORDER BY namespace

-- name: snapshot_documents
SELECT * FROM documents
WHERE namespace BETWEEN $1 AND $2 AND document BETWEEN $3 AND $4
ORDER BY namespace, document

-- name: snapshot_pages
SELECT *, last_sequence AS page_sequence FROM pages
WHERE namespace BETWEEN $1 AND $2 AND document BETWEEN $3 AND $4
ORDER BY namespace, document, last_sequence

-- name: snapshot_journal
SELECT * FROM journal
WHERE namespace BETWEEN $1 AND $2 AND document BETWEEN $3 AND $4
ORDER BY namespace, document, sequence

-- name: snapshot_rejections
SELECT * FROM rejections
WHERE namespace BETWEEN $1 AND $2 AND document BETWEEN $3 AND $4
ORDER BY namespace, document, sequence

-- name: limit_locks
SELECT set_config('lock_timeout', $1, true)

-- name: unequal_documents
-- Documents that changed after $1, and in the live schema not after $2, and that differ, or whose live state is older than
-- its row and still to be compared (`state_version`). A fresh state that is older than its row differs. Where only the states
-- differ and one is encrypted (it begins with a space), they may be equal. Encrypted states are returned, of others the hash.
-- The names live, fresh and former are replaced by those of the schemas. Only columns that every format has are read.
SELECT
    namespace, document,
    CASE WHEN n.are_equal THEN l.state_version END AS state_version,
    n.are_equal AND l.state_version IS NULL AS may_be_equal,
    l.version AS live_version, l.last_sequence AS live_last_sequence,
    CASE WHEN e.is_live THEN l.state END AS live_state,
    CASE WHEN NOT e.is_live THEN encode(sha256(convert_to(l.state::text, 'UTF8')), 'hex') END AS live_state_hash,
    f.version AS fresh_version, f.last_sequence AS fresh_last_sequence,
    CASE WHEN e.is_fresh THEN f.state END AS fresh_state,
    CASE WHEN NOT e.is_fresh THEN encode(sha256(convert_to(f.state::text, 'UTF8')), 'hex') END AS fresh_state_hash
FROM live.documents AS l FULL JOIN fresh.documents AS f USING (namespace, document)
CROSS JOIN LATERAL (
    SELECT (
        l.version, l.last_sequence, l.version_sequence, l.recorded_at, l.occurred_at, l.occurred_max,
        l.last_recorded_at, l.events, l.size, NULL::bigint
    ) IS NOT DISTINCT FROM (
        f.version, f.last_sequence, f.version_sequence, f.recorded_at, f.occurred_at, f.occurred_max,
        f.last_recorded_at, f.events, f.size, f.state_version
    ) AS are_equal
) AS n
CROSS JOIN LATERAL (
    SELECT
        coalesce(starts_with(l.state::text, ' '), false) AS is_live,
        coalesce(starts_with(f.state::text, ' '), false) AS is_fresh
) AS e
WHERE coalesce(l.last_sequence, 0) <= $2 AND greatest(l.last_sequence, f.last_sequence) > $1
    AND (
        l.version, l.last_sequence, l.version_sequence, l.recorded_at, l.occurred_at, l.occurred_max,
        l.last_recorded_at, l.events, l.size, l.state::text, l.state_version, NULL::bigint
    ) IS DISTINCT FROM (
        f.version, f.last_sequence, f.version_sequence, f.recorded_at, f.occurred_at, f.occurred_max,
        f.last_recorded_at, f.events, f.size, f.state::text, NULL::bigint, f.state_version
    )
ORDER BY namespace, document

-- name: unequal_checkpoints
-- Checkpoints and counts, as text.
SELECT '' AS namespace, l::text AS live_row, f::text AS fresh_row
FROM (
    SELECT c.*, s.fold, s.read_sequence, s.recorded_at
    FROM live.checkpoints AS c JOIN live.shards AS s ON c.partition = ANY (s.partitions)
) AS l
FULL JOIN (
    SELECT c.*, s.fold, s.read_sequence, s.recorded_at
    FROM fresh.checkpoints AS c JOIN fresh.shards AS s ON c.partition = ANY (s.partitions)
) AS f USING (partition)
WHERE l::text IS DISTINCT FROM f::text
UNION ALL
SELECT namespace, concat(l.documents, ' documents, ', l.events, ' events'), concat(f.documents, ' documents, ', f.events, ' events')
FROM (SELECT namespace, sum(documents) AS documents, sum(events) AS events FROM live.namespaces GROUP BY namespace) AS l
FULL JOIN (
    SELECT namespace, sum(documents) AS documents, sum(events) AS events FROM fresh.namespaces GROUP BY namespace
) AS f USING (namespace)
WHERE (l.documents, l.events) IS DISTINCT FROM (f.documents, f.events)

-- name: rename_live
ALTER SCHEMA live RENAME TO former

-- name: rename_fresh
ALTER SCHEMA fresh RENAME TO live

-- name: recreate_views
SELECT live.recreate_views()

-- name: drop_former_tables
-- Without CASCADE, so that nothing outside is dropped. The log first, as commits lock it before the others.
DROP TABLE IF EXISTS
    former.log, former.documents, former.journal, former.pages, former.rejections, former.namespaces, former.checkpoints,
    former.shards, former.migrations

-- name: drop_former
DROP SCHEMA IF EXISTS former CASCADE

-- name: readers_elsewhere
-- Views that read a table of the live schema, except those that create_view made.
SELECT DISTINCT v.oid::regclass::text
FROM pg_depend AS d
JOIN pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
JOIN pg_class AS v ON v.oid = r.ev_class
JOIN pg_class AS t ON t.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
WHERE t.relnamespace = to_regnamespace('live')
    AND coalesce(obj_description(v.oid, 'pg_class'), '') NOT LIKE 'refold namespace %'

-- name: added_indexes
-- Definitions as seen from the live schema qualify its tables but not its functions.
SELECT replace(
    replace(pg_get_indexdef(i.indexrelid), format(' ON %I.%I ', n.nspname, t.relname), format(' ON fresh.%I ', t.relname)),
    'refold_jsonb(', 'fresh.refold_jsonb('
) AS definition
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_namespace AS n ON n.oid = t.relnamespace
WHERE n.oid = to_regnamespace('live')
    AND NOT EXISTS (
        SELECT FROM pg_class AS f WHERE f.relnamespace = 'fresh'::regnamespace AND f.relname = c.relname
    )

-- name: log_of_live
SELECT log_id FROM live.log

-- name: sequence_of_live
SELECT coalesce(min(read_sequence), 0) AS read_sequence FROM live.shards

-- name: has_live
SELECT WHERE to_regnamespace('live') IS NOT NULL

-- name: has_live_log
SELECT WHERE to_regclass('live.log') IS NOT NULL

-- name: lock_live_log
LOCK TABLE live.log IN ACCESS EXCLUSIVE MODE

-- name: foreign_tables
SELECT c.relname::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> ALL ($2::text[])

-- name: drop_fresh_tables
DROP TABLE IF EXISTS
    fresh.documents, fresh.journal, fresh.pages, fresh.rejections, fresh.namespaces, fresh.checkpoints, fresh.shards,
    fresh.log, fresh.migrations

-- name: drop_fresh
DROP SCHEMA IF EXISTS fresh CASCADE
