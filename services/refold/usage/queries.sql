-- Every statement of the file of counts, named. Texts are numbers of `names`; 0 is none.

-- name: make_log
CREATE TABLE IF NOT EXISTS log (
    is_only INTEGER PRIMARY KEY CHECK (is_only = 1),
    format INTEGER NOT NULL,
    log_id TEXT NOT NULL,
    totals TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time INTEGER NOT NULL
) STRICT

-- name: make_names
CREATE TABLE IF NOT EXISTS names (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT

-- name: make_sections
-- The sections of a namespace that are counted by name.
CREATE TABLE IF NOT EXISTS sections (
    namespace INTEGER NOT NULL,
    section INTEGER NOT NULL,
    PRIMARY KEY (namespace, section)
) STRICT, WITHOUT ROWID

-- name: make_counts
-- An event is counted in one row, that of its first section. `operations` are counted in the rows of their own sections.
CREATE TABLE IF NOT EXISTS counts (
    number INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    type INTEGER NOT NULL,
    section INTEGER NOT NULL,
    events INTEGER NOT NULL,
    effective INTEGER NOT NULL,
    merged INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    duplicate INTEGER NOT NULL,
    conflicts INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    UNIQUE (namespace, hour, actor, type, section)
) STRICT

-- name: make_documents
-- The documents of a row of `counts`, so that distinct ones can be counted over any rows.
CREATE TABLE IF NOT EXISTS documents (
    counted INTEGER NOT NULL,
    document INTEGER NOT NULL,
    PRIMARY KEY (counted, document)
) STRICT, WITHOUT ROWID

-- name: make_sessions
-- With neither actor nor session, it is no session, but the events between two pauses that have none.
CREATE TABLE IF NOT EXISTS sessions (
    number INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    session INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    events INTEGER NOT NULL,
    effective INTEGER NOT NULL,
    merged INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    duplicate INTEGER NOT NULL,
    conflicts INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL
) STRICT

-- name: make_sessions_index
CREATE INDEX IF NOT EXISTS sessions_by_start ON sessions (namespace, started)

-- name: read_log
SELECT format, log_id, totals, sequence, time FROM log

-- name: begin_log
INSERT INTO log (is_only, format, log_id, totals, sequence, time) VALUES (1, ?, ?, ?, 0, 0)

-- name: set_format
UPDATE log SET format = ?

-- name: advance
UPDATE log SET sequence = ?, time = ?

-- name: find_name
SELECT number FROM names WHERE text = ?

-- name: add_name
INSERT INTO names (text) VALUES (?)

-- name: read_sections
SELECT s.namespace, n.text, s.section FROM sections AS s JOIN names AS n ON n.number = s.section

-- name: add_section
INSERT INTO sections (namespace, section) VALUES (?, ?)

-- name: count
INSERT INTO counts (
    namespace, hour, actor, type, section,
    events, effective, merged, rejected, duplicate, conflicts, bytes, operations, first_sequence, last_sequence
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (namespace, hour, actor, type, section) DO UPDATE SET
    events = events + excluded.events,
    effective = effective + excluded.effective,
    merged = merged + excluded.merged,
    rejected = rejected + excluded.rejected,
    duplicate = duplicate + excluded.duplicate,
    conflicts = conflicts + excluded.conflicts,
    bytes = bytes + excluded.bytes,
    operations = operations + excluded.operations,
    last_sequence = excluded.last_sequence
RETURNING number

-- name: add_document
INSERT INTO documents (counted, document) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: open_sessions
SELECT number, namespace, actor, session, started, ended FROM sessions WHERE ended > ? ORDER BY number

-- name: last_session
SELECT coalesce(max(number), 0) FROM sessions

-- name: count_session
INSERT INTO sessions (
    number, namespace, actor, session, started, ended,
    events, effective, merged, rejected, duplicate, conflicts, bytes, operations, first_sequence, last_sequence
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET
    ended = excluded.ended,
    events = events + excluded.events,
    effective = effective + excluded.effective,
    merged = merged + excluded.merged,
    rejected = rejected + excluded.rejected,
    duplicate = duplicate + excluded.duplicate,
    conflicts = conflicts + excluded.conflicts,
    bytes = bytes + excluded.bytes,
    operations = operations + excluded.operations,
    last_sequence = excluded.last_sequence

-- name: status_counts
SELECT
    coalesce(sum(effective - merged), 0), coalesce(sum(merged), 0), coalesce(sum(rejected), 0), coalesce(sum(duplicate), 0)
FROM counts

-- name: has_namespace
SELECT EXISTS (SELECT 1 FROM counts AS c JOIN names AS n ON n.number = c.namespace WHERE n.text = ?)

-- name: count_total
-- {group} and {time} are columns of {table}. Times ?2 to before ?3; ?1 is a namespace, NULL for all.
SELECT
    count(DISTINCT {group}) AS groups,
    coalesce(sum(events), 0) AS events, coalesce(sum(effective), 0) AS effective, coalesce(sum(merged), 0) AS merged,
    coalesce(sum(rejected), 0) AS rejected, coalesce(sum(duplicate), 0) AS duplicate,
    coalesce(sum(conflicts), 0) AS conflicts, coalesce(sum(bytes), 0) AS bytes,
    coalesce(sum(operations), 0) AS operations
FROM {table}
WHERE (?1 IS NULL OR namespace = (SELECT number FROM names WHERE text = ?1)) AND {time} >= ?2 AND {time} < ?3

-- name: count_groups
-- The first ?4 groups in {order}, of the hours ?2 to before ?3. `actors` are those with a name.
WITH found AS MATERIALIZED (
    SELECT
        {group} AS name,
        sum(events) AS events, sum(effective) AS effective, sum(merged) AS merged, sum(rejected) AS rejected,
        sum(duplicate) AS duplicate, sum(conflicts) AS conflicts, sum(bytes) AS bytes, sum(operations) AS operations,
        count(DISTINCT nullif(actor, 0)) AS actors,
        min(first_sequence) AS first_sequence, max(last_sequence) AS last_sequence
    FROM counts
    WHERE (?1 IS NULL OR namespace = (SELECT number FROM names WHERE text = ?1)) AND hour >= ?2 AND hour < ?3
    GROUP BY {group} ORDER BY {order} LIMIT ?4
),
of_documents AS (
    SELECT c.{group} AS counted, count(DISTINCT document) AS documents
    FROM counts AS c JOIN documents AS d ON d.counted = c.number
    WHERE
        (?1 IS NULL OR namespace = (SELECT number FROM names WHERE text = ?1)) AND hour >= ?2 AND hour < ?3
        AND c.{group} IN (SELECT name FROM found)
    GROUP BY c.{group}
)
SELECT n.text, f.*, d.documents
FROM found AS f JOIN of_documents AS d ON d.counted = f.name LEFT JOIN names AS n ON n.number = f.name
ORDER BY {order}

-- name: count_session_groups
-- The first ?4 actors in {order}, of the sessions that began from ?2 to before ?3.
SELECT
    n.text,
    actor AS name,
    sum(events) AS events, sum(effective) AS effective, sum(merged) AS merged, sum(rejected) AS rejected,
    sum(duplicate) AS duplicate, sum(conflicts) AS conflicts, sum(bytes) AS bytes, sum(operations) AS operations,
    sum(actor <> 0 OR session <> 0) AS sessions,
    sum(CASE WHEN actor <> 0 OR session <> 0 THEN ended - started ELSE 0 END) AS nanoseconds,
    max(CASE WHEN actor <> 0 OR session <> 0 THEN ended - started ELSE 0 END) AS longest,
    min(first_sequence) AS first_sequence, max(last_sequence) AS last_sequence
FROM sessions LEFT JOIN names AS n ON n.number = actor
WHERE (?1 IS NULL OR namespace = (SELECT number FROM names WHERE text = ?1)) AND started >= ?2 AND started < ?3
GROUP BY actor ORDER BY {order} LIMIT ?4
