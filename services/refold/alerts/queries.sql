-- name: count_tables
SELECT count(*) FROM sqlite_master

-- name: drop_state
DROP TABLE IF EXISTS state

-- name: drop_outbox
DROP TABLE IF EXISTS outbox

-- name: make_state
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT

-- name: make_outbox
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    notifier TEXT NOT NULL,
    notification TEXT NOT NULL
) STRICT

-- name: read_state
SELECT value FROM state WHERE name = 'machine'

-- name: write_state
INSERT INTO state (name, value) VALUES ('machine', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: add_to_outbox
INSERT INTO outbox (notifier, notification) VALUES (:notifier, :notification)

-- name: read_outbox
SELECT number, notifier, notification FROM outbox ORDER BY number

-- name: remove_from_outbox
DELETE FROM outbox WHERE number = :number
