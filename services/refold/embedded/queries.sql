-- Every query of the embedded server, named.

-- name: has_database
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)
