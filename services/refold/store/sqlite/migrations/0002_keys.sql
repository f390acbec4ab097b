-- For each key that values are encrypted with: what shows, without the key, whether another key of its number is the same.
-- A commit looks for its key's row in its own transaction.
CREATE TABLE keys (
    number INTEGER PRIMARY KEY,
    check_value BLOB NOT NULL
);
