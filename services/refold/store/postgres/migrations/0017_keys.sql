-- For each key that values are encrypted with: what shows, without the key, whether another key of its number is the same.
-- A commit locks the row of its key, so that no value comes to be stored under a key whose row is being removed.
CREATE TABLE keys (
    number bigint PRIMARY KEY,
    check_value bytea NOT NULL
);
