-- Partitions that are folded together are at one sequence: it is written once, not in each of their rows, most of which
-- have no event in a commit. Every partition is in exactly one row.
CREATE TABLE shards (
    partitions smallint[] PRIMARY KEY,
    fold integer NOT NULL,
    read_sequence bigint NOT NULL,
    recorded_at bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO shards
SELECT array_agg(partition ORDER BY partition), fold, read_sequence, recorded_at
FROM checkpoints
GROUP BY fold, read_sequence, recorded_at;

ALTER TABLE checkpoints
    DROP COLUMN fold,
    DROP COLUMN read_sequence,
    DROP COLUMN recorded_at;

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
