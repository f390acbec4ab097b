-- The projection of one log. Times are nanoseconds since 1970. The whole database can be made again from the log.
-- Rowid tables with unique indexes: a state may have 8 MiB, and a table that is its own index would carry it in the tree
-- that is searched. Large values stand last in their rows, so that what stands before them is read without them.

-- The epoch of this projection: a projector that read the checkpoints of another epoch must not commit.
CREATE TABLE log (
    is_only INTEGER PRIMARY KEY CHECK (is_only = 1),
    log_id TEXT NOT NULL,
    epoch TEXT NOT NULL
);

-- Partitions that are folded together are at one sequence. `partitions` has one byte for each, in order.
-- Every partition is in exactly one row.
CREATE TABLE shards (
    partitions BLOB NOT NULL UNIQUE,
    fold INTEGER NOT NULL,
    read_sequence INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL
);

CREATE TABLE checkpoints (
    partition INTEGER PRIMARY KEY,
    chain BLOB NOT NULL,
    chain_before BLOB NOT NULL,
    last_sequence INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    merged INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    duplicate INTEGER NOT NULL
);

-- `state` holds the encoded canonical bytes, NULL where the document is absent.
CREATE TABLE documents (
    namespace TEXT NOT NULL,
    document TEXT NOT NULL,
    partition INTEGER NOT NULL,
    version INTEGER NOT NULL,
    version_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    last_recorded_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    occurred_max INTEGER NOT NULL,
    events INTEGER NOT NULL,
    unpaged_events INTEGER NOT NULL,
    unpaged_bytes INTEGER NOT NULL,
    page_bytes INTEGER NOT NULL,
    size INTEGER NOT NULL,
    state BLOB
);

CREATE UNIQUE INDEX documents_by_name ON documents (namespace, document);

-- Events that are not in a page yet, one per row: the packed entry, encoded, and its identity in the dedup window.
CREATE TABLE journal (
    namespace TEXT NOT NULL,
    document TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    identity BLOB,
    entry BLOB NOT NULL
);

CREATE UNIQUE INDEX journal_by_name ON journal (namespace, document, sequence);

-- A page is a row that is written once: the packed entries of a document after the page before it, and the document as it
-- was after them (`snapshot`: its encoded state, NULL where it is absent). What follows the last page is in the journal.
-- `events` counts the document's events up to the end of the page, which shows whether a page or an entry is missing.
CREATE TABLE pages (
    namespace TEXT NOT NULL,
    document TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    version INTEGER NOT NULL,
    version_sequence INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    occurred_max INTEGER NOT NULL,
    events INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    ids INTEGER NOT NULL,
    conflicts INTEGER NOT NULL,
    identities BLOB NOT NULL,
    snapshot BLOB,
    payload BLOB NOT NULL
);

-- The page of any point is found in the index alone.
CREATE UNIQUE INDEX pages_by_name ON pages (
    namespace, document, last_sequence, version, version_sequence, recorded_at, occurred_max, events
);

CREATE INDEX pages_conflicts ON pages (namespace, document, last_sequence) WHERE conflicts > 0;

-- Rejected events. Names are empty where the subject is unroutable; only then `content` holds the event itself.
-- `resolved_by` is the sequence of the first accepted event that resolves a rejection which needs it.
CREATE TABLE rejections (
    partition INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    document TEXT NOT NULL,
    recorded_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    resolved_by INTEGER,
    content BLOB NOT NULL
);

CREATE UNIQUE INDEX rejections_by_name ON rejections (namespace, document, sequence);

CREATE UNIQUE INDEX rejections_by_sequence ON rejections (sequence);

CREATE INDEX rejections_of_namespace ON rejections (namespace, sequence);

CREATE INDEX rejections_open ON rejections (sequence) WHERE reason = 'needs_resolution' AND resolved_by IS NULL;

-- Counts of present documents and of events of any outcome.
CREATE TABLE namespaces (
    namespace TEXT PRIMARY KEY,
    documents INTEGER NOT NULL,
    events INTEGER NOT NULL
);
