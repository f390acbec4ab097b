-- The projection of one log. Times are nanoseconds since 1970. The whole schema can be rebuilt from the log.

CREATE TABLE log (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    log_id text NOT NULL
);

-- Every commit updates all rows of its shard: free space for new row versions keeps them on their page.
CREATE TABLE checkpoints (
    partition smallint PRIMARY KEY,
    chain bytea NOT NULL,
    chain_before bytea NOT NULL,
    fold integer NOT NULL,
    read_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL,
    applied bigint NOT NULL,
    merged bigint NOT NULL,
    rejected bigint NOT NULL,
    duplicate bigint NOT NULL
) WITH (fillfactor = 10);

-- `state` holds the canonical bytes, NULL where the document is absent. Read it in SQL through refold_jsonb:
-- an index directly on it would make the projector's writes fail, and is refused at start.
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
    PRIMARY KEY (namespace, document)
) WITH (fillfactor = 70);

-- Events that are not in a closed page yet, one per row, with their outcomes.
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

-- A page starts with its base snapshot. A closed page holds the packed entries after it; those of the open page
-- are in the journal. A document's first page has no row before it is closed.
-- The later columns of the key allow an index-only search for the page of any point.
CREATE TABLE pages (
    namespace text COLLATE "C" NOT NULL,
    document text COLLATE "C" NOT NULL,
    base_sequence bigint NOT NULL,
    base_version bigint NOT NULL,
    base_version_sequence bigint NOT NULL,
    base_recorded_at bigint NOT NULL,
    base_occurred_max bigint NOT NULL,
    base_events bigint NOT NULL,
    base_occurred_at bigint NOT NULL,
    snapshot bytea,
    last_sequence bigint,
    events bigint,
    ids integer,
    identities bytea,
    payload bytea,
    PRIMARY KEY (
        namespace, document, base_sequence,
        base_version, base_version_sequence, base_recorded_at, base_occurred_max, base_events
    ),
    CHECK (num_nulls(last_sequence, events, ids, identities, payload) IN (0, 5))
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

-- Counts of present documents and of events of any outcome; one row per shard (by its first partition), so that
-- shards do not wait for each other.
CREATE TABLE namespaces (
    namespace text COLLATE "C" NOT NULL,
    partition smallint NOT NULL,
    documents bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (namespace, partition)
) WITH (fillfactor = 50);

-- A state as jsonb, NULL where jsonb cannot hold it (U+0000, a key or string too long): it never raises, so it
-- can be used in views, searches and indexes. A subtransaction forbids parallel plans.
CREATE FUNCTION refold_jsonb(value json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
BEGIN
    RETURN value::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
