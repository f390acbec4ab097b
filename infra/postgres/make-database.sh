#!/bin/sh
# Run once by the image, when its volume is new: creates the services' user, which is no superuser, and its database.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --set password="$DATABASE_PASSWORD" <<'END'
CREATE ROLE refold LOGIN PASSWORD :'password';
CREATE DATABASE refold OWNER refold;
REVOKE ALL ON DATABASE refold FROM PUBLIC;
END
