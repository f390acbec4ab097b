-- How many entries of a page have a conflict: a list of conflicts reads only the pages that have any. Pages that exist were
-- folded under fold 1, and have none.
ALTER TABLE pages ADD COLUMN conflicts integer NOT NULL DEFAULT 0;

CREATE INDEX pages_conflicts ON pages (namespace, document, last_sequence) WHERE conflicts > 0;

-- The sequence of the first accepted event that resolves a rejection which needs it: without one, it is open.
ALTER TABLE rejections ADD COLUMN resolved_by bigint;

CREATE INDEX rejections_open ON rejections (namespace, document, sequence)
    WHERE reason = 'needs_resolution' AND resolved_by IS NULL;

CREATE INDEX rejections_open_by_sequence ON rejections (sequence)
    WHERE reason = 'needs_resolution' AND resolved_by IS NULL;
