-- What came of resolving a stale event, under fold 2: canonical JSON.
ALTER TABLE journal ADD COLUMN conflict bytea;
