-- Every statement of the adapter, named.

-- name: bound_log
SELECT log_id, epoch FROM log

-- name: bind_log
INSERT INTO log (is_only, log_id, epoch) VALUES (1, ?, ?)

-- name: find_emptied
-- The table that has lost rows which other tables refer to, or NULL; ?1 is the number of partitions.
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM log) THEN CASE
        WHEN EXISTS (SELECT 1 FROM shards) OR EXISTS (SELECT 1 FROM checkpoints) OR EXISTS (SELECT 1 FROM documents)
            OR EXISTS (SELECT 1 FROM journal) OR EXISTS (SELECT 1 FROM pages) OR EXISTS (SELECT 1 FROM rejections)
            OR EXISTS (SELECT 1 FROM namespaces)
        THEN 'log'
    END
    WHEN (SELECT count(*) FROM checkpoints) <> ?1 THEN 'checkpoints'
    WHEN (SELECT sum(length(partitions)) FROM shards) IS NOT ?1 THEN 'shards'
    WHEN EXISTS (SELECT 1 FROM checkpoints WHERE applied + merged > 0) AND NOT EXISTS (SELECT 1 FROM documents) THEN 'documents'
    WHEN EXISTS (SELECT 1 FROM documents) AND NOT EXISTS (SELECT 1 FROM namespaces) THEN 'namespaces'
    WHEN EXISTS (SELECT 1 FROM checkpoints WHERE rejected > 0) AND NOT EXISTS (SELECT 1 FROM rejections) THEN 'rejections'
    WHEN NOT EXISTS (SELECT 1 FROM journal) AND EXISTS (SELECT 1 FROM documents WHERE unpaged_events > 0) THEN 'journal'
    WHEN NOT EXISTS (SELECT 1 FROM pages) AND EXISTS (SELECT 1 FROM documents WHERE events > unpaged_events) THEN 'pages'
END

-- name: key_checks
SELECT number, check_value FROM keys, log WHERE log_id = ?

-- name: has_key_check
SELECT count(*) FROM keys WHERE number = ?

-- name: add_key_check
INSERT INTO keys (number, check_value) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: remove_key_check
DELETE FROM keys WHERE number = ?

-- name: count_keys
-- The names in braces are those of `keyed.VALUES`.
SELECT CASE WHEN substr({value}, 1, 1) = x'a5' THEN substr({value}, 1, 5) END, count(*)
FROM {table}
WHERE {value} IS NOT NULL
GROUP BY 1

-- name: outdated_values
-- Values after the row ?1 that do not begin with ?2; with NULL, those that are encrypted.
SELECT rowid, namespace, {document}, {sequence}, {value}
FROM {table}
WHERE rowid > ?1 AND CASE WHEN ?2 IS NULL THEN substr({value}, 1, 1) = x'a5' ELSE substr({value}, 1, 5) <> ?2 END
ORDER BY rowid

-- name: replace_value
UPDATE {table} SET {value} = ? WHERE rowid = ? AND {value} = ?

-- name: wait_for_disk
-- It changes nothing, but is a commit that waits for the disk, and with it all before.
UPDATE log SET epoch = epoch

-- name: make_checkpoint
INSERT INTO checkpoints (partition, chain, chain_before, last_sequence, applied, merged, rejected, duplicate)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: make_shard
INSERT INTO shards (partitions, fold, read_sequence, recorded_at) VALUES (?, ?, ?, ?)

-- name: shards
SELECT partitions, fold, read_sequence, recorded_at FROM shards

-- name: checkpoints
SELECT partition, chain, chain_before, last_sequence, applied, merged, rejected, duplicate FROM checkpoints ORDER BY partition

-- name: delete_shard
DELETE FROM shards WHERE partitions = ?

-- name: has_epoch
SELECT count(*) FROM log WHERE epoch = ?

-- name: fence
UPDATE shards SET read_sequence = ?, recorded_at = ?, fold = ? WHERE partitions = ? AND read_sequence = ?

-- name: link
UPDATE checkpoints
SET chain = ?2, chain_before = ?3, last_sequence = ?4, applied = ?5, merged = ?6, rejected = ?7, duplicate = ?8
WHERE partition = ?1

-- name: make_document
INSERT INTO documents (
    namespace, document, partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at,
    occurred_at, occurred_max, events, unpaged_events, unpaged_bytes, page_bytes, size, state
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: change_document
UPDATE documents
SET
    partition = ?3, version = ?4, version_sequence = ?5, last_sequence = ?6, last_recorded_at = ?7, recorded_at = ?8,
    occurred_at = ?9, occurred_max = ?10, events = ?11, unpaged_events = ?12, unpaged_bytes = ?13, page_bytes = ?14,
    size = ?15, state = ?16
WHERE namespace = ?1 AND document = ?2

-- name: add_entry
INSERT INTO journal (namespace, document, sequence, identity, entry) VALUES (?, ?, ?, ?, ?)

-- name: delete_journal
DELETE FROM journal WHERE namespace = ? AND document = ?

-- name: add_page
INSERT INTO pages (
    namespace, document, last_sequence, version, version_sequence, recorded_at, occurred_max, events, occurred_at,
    ids, conflicts, identities, snapshot, payload
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_rejection
INSERT INTO rejections (namespace, document, partition, sequence, recorded_at, reason, resolved_by, content)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: resolve_rejection
UPDATE rejections SET resolved_by = ?5
WHERE namespace = ?1 AND document = ?2 AND partition = ?3 AND sequence = ?4
    AND reason = 'needs_resolution' AND resolved_by IS NULL

-- name: count_namespace
INSERT INTO namespaces (namespace, documents, events) VALUES (?, ?, ?)
ON CONFLICT (namespace) DO UPDATE
SET documents = documents + excluded.documents, events = events + excluded.events

-- name: load_document
SELECT
    partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at, occurred_at, occurred_max, events,
    unpaged_events, unpaged_bytes, page_bytes, size, state
FROM documents WHERE namespace = ? AND document = ?

-- name: page_identities
SELECT events, ids, identities FROM pages WHERE namespace = ? AND document = ? ORDER BY last_sequence DESC

-- name: journal_identities
SELECT identity FROM journal WHERE namespace = ? AND document = ? AND identity IS NOT NULL ORDER BY sequence

-- name: head
-- Without the state of a present document at the version ?3 (-1: at any).
SELECT
    version, version_sequence, recorded_at, occurred_at, occurred_max, last_sequence,
    state IS NOT NULL AND ?3 IN (-1, version) AS is_omitted,
    CASE WHEN ?3 IN (-1, version) THEN NULL ELSE state END
FROM documents WHERE namespace = ?1 AND document = ?2

-- name: find_rows_of
-- Whether a document without a row has events.
SELECT EXISTS (SELECT 1 FROM journal WHERE namespace = ?1 AND document = ?2)
    OR EXISTS (SELECT 1 FROM pages WHERE namespace = ?1 AND document = ?2)

-- name: version_of
SELECT version, version_sequence FROM documents WHERE namespace = ? AND document = ?

-- name: list_documents
-- With ?5, without the states and their sizes.
SELECT
    document, CASE WHEN ?5 THEN 0 ELSE size END, version, version_sequence, recorded_at, occurred_at, occurred_max,
    last_sequence, CASE WHEN ?5 THEN NULL ELSE state END
FROM documents
WHERE namespace = ?1 AND document > ?2 AND document >= ?3 AND document < ?4 AND state IS NOT NULL
ORDER BY document

-- name: list_names
SELECT document, version, recorded_at, state IS NOT NULL
FROM documents
WHERE namespace = ?1 AND document > ?2 AND document >= ?3 AND document < ?4 AND version > 0
ORDER BY document
LIMIT ?5

-- name: list_at
-- Documents, with the head's snapshot where it is within the bounds.
SELECT
    document, version, version_sequence, recorded_at, occurred_at, occurred_max,
    version_sequence <= ?5 AND recorded_at <= ?6 AND occurred_max <= ?7 AS is_head,
    CASE WHEN version_sequence <= ?5 AND recorded_at <= ?6 AND occurred_max <= ?7 THEN state END AS state
FROM documents
WHERE namespace = ?1 AND document > ?2 AND document >= ?3 AND document < ?4 AND version > 0
ORDER BY document

-- name: namespaces
SELECT namespace, documents, events FROM namespaces ORDER BY namespace

-- name: count_documents
SELECT documents FROM namespaces WHERE namespace = ?

-- name: events_of
SELECT events, unpaged_events FROM documents WHERE namespace = ? AND document = ?

-- name: base_page
-- The last page that ends within every bound.
SELECT last_sequence, version, version_sequence, recorded_at, occurred_at, occurred_max, events, snapshot
FROM pages
WHERE namespace = ? AND document = ?
    AND last_sequence <= ? AND version <= ? AND version_sequence <= ? AND recorded_at <= ? AND occurred_max <= ?
ORDER BY last_sequence DESC
LIMIT 1

-- name: next_page
SELECT last_sequence, events, payload FROM pages
WHERE namespace = ? AND document = ? AND last_sequence > ?
ORDER BY last_sequence
LIMIT 1

-- name: journal
SELECT sequence, entry FROM journal WHERE namespace = ? AND document = ? ORDER BY sequence

-- name: journal_entry
SELECT entry FROM journal WHERE namespace = ? AND document = ? AND sequence = ?

-- name: journal_between
SELECT sequence, entry FROM journal
WHERE namespace = ? AND document = ? AND sequence > ? AND sequence <= ?
ORDER BY sequence

-- name: pages_between
-- The pages that may have events after ?3 up to ?4.
SELECT last_sequence, payload FROM pages
WHERE namespace = ?1 AND document = ?2 AND last_sequence > ?3 AND last_sequence <= coalesce(
    (
        SELECT min(q.last_sequence) FROM pages AS q
        WHERE q.namespace = ?1 AND q.document = ?2 AND q.last_sequence >= ?4
    ),
    ?4
)
ORDER BY last_sequence

-- name: conflicts_after
SELECT last_sequence, payload FROM pages
WHERE namespace = ?1 AND document = ?2 AND last_sequence > ?3 AND conflicts > 0
ORDER BY last_sequence
LIMIT 1

-- name: conflicts_before
-- The last page with conflicts that begins before ?3.
SELECT last_sequence, payload FROM pages
WHERE namespace = ?1 AND document = ?2 AND conflicts > 0 AND last_sequence <= coalesce(
    (
        SELECT min(q.last_sequence) FROM pages AS q
        WHERE q.namespace = ?1 AND q.document = ?2 AND q.last_sequence >= ?3 - 1
    ),
    ?3
)
ORDER BY last_sequence DESC
LIMIT 1

-- name: sequence_before
SELECT max(last_sequence) FROM pages WHERE namespace = ? AND document = ? AND last_sequence < ?

-- name: rejections
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE namespace = ?1 AND document = ?2 AND sequence < ?3
ORDER BY sequence DESC
LIMIT ?4

-- name: rejections_of_namespace
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE namespace = ?1 AND ?2 IS NULL AND sequence < ?3
ORDER BY sequence DESC
LIMIT ?4

-- name: rejections_of_all
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE ?1 IS NULL AND ?2 IS NULL AND sequence < ?3
ORDER BY sequence DESC
LIMIT ?4

-- name: open_conflicts_after
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL
    AND (?1 IS NULL OR namespace = ?1) AND (?2 IS NULL OR document = ?2) AND sequence > ?3
ORDER BY sequence
LIMIT ?4

-- name: open_conflicts_before
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE reason = 'needs_resolution' AND resolved_by IS NULL
    AND (?1 IS NULL OR namespace = ?1) AND (?2 IS NULL OR document = ?2) AND sequence < ?3
ORDER BY sequence DESC
LIMIT ?4

-- name: snapshot_documents
SELECT
    namespace, document, partition, version, version_sequence, last_sequence, last_recorded_at, recorded_at,
    occurred_at, occurred_max, events, unpaged_events, unpaged_bytes, page_bytes, size, state
FROM documents
WHERE namespace BETWEEN ?1 AND ?2 AND document BETWEEN ?3 AND ?4
ORDER BY namespace, document

-- name: snapshot_pages
SELECT
    namespace, document, last_sequence, events, ids, identities, conflicts,
    version, snapshot, version_sequence, recorded_at, occurred_at, occurred_max, payload
FROM pages
WHERE namespace BETWEEN ?1 AND ?2 AND document BETWEEN ?3 AND ?4
ORDER BY namespace, document, last_sequence

-- name: snapshot_journal
SELECT namespace, document, sequence, entry FROM journal
WHERE namespace BETWEEN ?1 AND ?2 AND document BETWEEN ?3 AND ?4
ORDER BY namespace, document, sequence

-- name: snapshot_rejections
SELECT namespace, document, partition, sequence, recorded_at, reason, resolved_by, content FROM rejections
WHERE namespace BETWEEN ?1 AND ?2 AND document BETWEEN ?3 AND ?4
ORDER BY namespace, document, sequence

-- name: compared_documents
SELECT
    namespace, document, last_sequence, version, version_sequence, recorded_at, occurred_at, occurred_max,
    last_recorded_at, events, size, state
FROM documents
ORDER BY namespace, document

-- name: indexes
SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL

-- name: dictionaries_after
SELECT number, namespace, content FROM dictionaries WHERE number > ? ORDER BY number

-- name: dictionary
SELECT number, namespace, content FROM dictionaries WHERE number = ?

-- name: newest_dictionaries
-- The maximum chooses the row that the other columns are of.
SELECT max(number), namespace, content FROM dictionaries GROUP BY namespace

-- name: add_dictionary
INSERT INTO dictionaries (number, namespace, content) VALUES (?, ?, ?)
