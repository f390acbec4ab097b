-- Tables of the same shape and weight as the projection's, for COPY with nothing else to do.

-- name: make_ground_documents
CREATE TABLE bench_documents (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    last_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL,
    state json,
    PRIMARY KEY (namespace, document)
) WITH (fillfactor = 50)

-- name: make_ground_changed
CREATE TEMPORARY TABLE bench_changed (LIKE bench_documents) ON COMMIT DELETE ROWS

-- name: make_ground_journal
CREATE TABLE bench_journal (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    recorded_at bigint NOT NULL,
    version bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (namespace, document, sequence)
)

-- name: update_ground_documents
UPDATE bench_documents AS d
SET version = c.version, last_sequence = c.last_sequence, recorded_at = c.recorded_at, state = c.state
FROM bench_changed AS c
WHERE d.namespace = c.namespace AND d.document = c.document

-- name: drop_ground_documents
DROP TABLE IF EXISTS bench_documents, bench_changed

-- name: drop_ground_journal
DROP TABLE IF EXISTS bench_journal

-- name: make_view
SELECT refold.create_view('bench')

-- name: select_view
SELECT version, state FROM refold_views.bench WHERE $1::text = 'bench' AND document = $2

-- name: select_row
SELECT version, state FROM refold.documents WHERE namespace = $1 AND document = $2

-- name: database_bytes
SELECT pg_database_size(current_database())

-- name: table_bytes
SELECT regexp_replace(relname, '_?\d+$', '') AS name, sum(pg_total_relation_size(oid))::bigint AS bytes
FROM pg_class
WHERE relnamespace = $1::text::regnamespace AND relkind = 'r'
GROUP BY 1
