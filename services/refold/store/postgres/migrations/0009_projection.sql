-- The projection of one log, in format 2. Times are nanoseconds since 1970. The whole schema can be rebuilt from the log.
-- Format 1, of the migrations 1 to 8, is not converted: `refold rebuild` makes the projection anew beside it.

-- The epoch of this projection: a projector that read the checkpoints of another epoch must not commit.
CREATE TABLE log (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    log_id text NOT NULL,
    epoch uuid NOT NULL DEFAULT gen_random_uuid()
);

-- Partitions that are folded together are at one sequence: it is written once, not in each of their rows, most of which
-- have no event in a commit. Every partition is in exactly one row. Every commit updates its shard's row: free space for
-- new row versions keeps them on their page.
CREATE TABLE shards (
    partitions smallint[] PRIMARY KEY,
    fold integer NOT NULL,
    read_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE checkpoints (
    partition smallint PRIMARY KEY,
    chain bytea NOT NULL,
    chain_before bytea NOT NULL,
    last_sequence bigint NOT NULL,
    applied bigint NOT NULL,
    merged bigint NOT NULL,
    rejected bigint NOT NULL,
    duplicate bigint NOT NULL
) WITH (fillfactor = 10);

-- `state` holds the canonical bytes, NULL where the document is absent. Read it in SQL through refold_jsonb:
-- an index directly on it would make the projector's writes fail, and is refused at start.
-- A large document's state may be behind its row's version: `state_version` is then the version of the state, else NULL.
-- For small documents it is always NULL, so that the index below does not prevent their heap-only updates.
-- The state of a document of up to 4 KB is stored as it is: compressing it took two thirds of an update. Up to 8 KB that
-- would be quicker too, but the table of a history took half as much space again: two such rows do not fit on a page.
CREATE TABLE documents (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    partition smallint NOT NULL,
    version bigint NOT NULL,
    version_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    last_recorded_at bigint NOT NULL,
    recorded_at bigint NOT NULL,
    occurred_at bigint NOT NULL,
    occurred_max bigint NOT NULL,
    events bigint NOT NULL,
    unpaged_events bigint NOT NULL,
    unpaged_bytes bigint NOT NULL,
    page_bytes bigint NOT NULL,
    size bigint NOT NULL,
    state json,
    state_version bigint,
    PRIMARY KEY (namespace, document),
    CONSTRAINT documents_lagging_state CHECK (state_version IS NULL OR state IS NOT NULL)
) WITH (fillfactor = 70, toast_tuple_target = 4400);

CREATE INDEX documents_lagging ON documents (namespace, document) WHERE state_version IS NOT NULL;

-- Events that are not in a page yet, one per row, with their outcomes.
CREATE TABLE journal (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    time bigint NOT NULL,
    recorded_at bigint NOT NULL,
    occurred_at bigint NOT NULL,
    version bigint NOT NULL,
    status smallint NOT NULL,
    kind smallint NOT NULL,
    is_creation boolean NOT NULL,
    subject bytea,
    headers bytea NOT NULL,
    body bytea NOT NULL,
    effect bytea,
    reason text NOT NULL,
    detail text NOT NULL,
    identity bytea,
    first_sequence bigint NOT NULL,
    PRIMARY KEY (namespace, document, sequence)
);

-- A page is a row that is written once: the packed entries of a document after the page before it, and the document as it
-- was after them (`snapshot`: its state, NULL where it is absent). A point in a page is read from that page and the
-- snapshot of the page before it; what follows the last page is in the journal. `events` counts the document's events up
-- to the end of the page, which shows whether a page or an entry is missing.
-- The later columns of the key allow an index-only search for the page of any point.
CREATE TABLE pages (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    last_sequence bigint NOT NULL,
    version bigint NOT NULL,
    version_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL,
    occurred_max bigint NOT NULL,
    events bigint NOT NULL,
    occurred_at bigint NOT NULL,
    snapshot bytea,
    ids integer NOT NULL,
    identities bytea NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (
        namespace, document, last_sequence, version, version_sequence, recorded_at, occurred_max, events
    )
);

-- Already compressed, or not compressible.
ALTER TABLE pages
    ALTER COLUMN snapshot SET STORAGE EXTERNAL,
    ALTER COLUMN payload SET STORAGE EXTERNAL,
    ALTER COLUMN identities SET STORAGE EXTERNAL;

-- Rejected events. Names are empty if the subject is unroutable; only then the event itself is stored here.
CREATE TABLE rejections (
    partition smallint NOT NULL,
    sequence bigint NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    recorded_at bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    about json NOT NULL,
    time bigint,
    subject bytea,
    headers bytea,
    body bytea,
    PRIMARY KEY (partition, sequence)
);

CREATE INDEX rejections_newest ON rejections (namespace, document, sequence);

-- The newest rejections of a namespace, and of all, without reading the older ones.
CREATE INDEX rejections_by_sequence ON rejections (sequence);

-- Counts of present documents and of events of any outcome; one row per shard (by its first partition), so that
-- shards do not wait for each other.
CREATE TABLE namespaces (
    namespace text COLLATE "C" NOT NULL,
    partition smallint NOT NULL,
    documents bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (namespace, partition)
) WITH (fillfactor = 50);

-- Raises if a statement changed an unexpected number of rows; returns that number.
CREATE FUNCTION changed_all(changed bigint, expected bigint) RETURNS bigint
LANGUAGE plpgsql STRICT
AS $$
BEGIN
    IF changed <> expected THEN
        RAISE data_exception USING
            MESSAGE = format('a document that was loaded has no row: %s of %s are there', changed, expected);
    END IF;
    RETURN changed;
END
$$;
