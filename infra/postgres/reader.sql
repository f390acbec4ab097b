-- Makes the group role refold_reader, which may read the views of the schema refold_views, those to come included,
-- and nothing else. Run it as a superuser, or as the role that owns the projection's tables where that may make
-- roles; again as often as you like. Where REFOLD_POSTGRES_SCHEMA is not refold, put that name in the place of both: refold, refold_views.

DO $$
BEGIN
    -- A role is the whole server's: another database may have made it, even just now.
    IF to_regrole('refold_reader') IS NULL THEN
        CREATE ROLE refold_reader NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- The views are made by create_view, hence by the owner of the tables: what he makes is granted as he makes it.
DO $$
DECLARE
    owner name;
BEGIN
    SELECT tableowner INTO STRICT owner FROM pg_tables WHERE schemaname = 'refold' AND tablename = 'documents';
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO refold_reader', current_database());
    EXECUTE format('CREATE SCHEMA IF NOT EXISTS refold_views AUTHORIZATION %I', owner);
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA refold_views GRANT SELECT ON TABLES TO refold_reader', owner
    );
END
$$;

GRANT USAGE ON SCHEMA refold_views TO refold_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA refold_views TO refold_reader;

-- What an earlier hand may have given.
REVOKE ALL ON SCHEMA refold FROM refold_reader;
REVOKE ALL ON ALL TABLES IN SCHEMA refold FROM refold_reader;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA refold FROM refold_reader;
REVOKE CREATE ON SCHEMA refold_views FROM refold_reader;
