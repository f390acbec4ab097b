-- Creates the group role refold_reader, which may read the present and future views of the schema refold_views, and wait
-- there for a commit, and nothing else. Run it as a superuser, or as the role that owns the projection's tables if it may create roles;
-- it can be run again. If REFOLD_POSTGRES_SCHEMA is not refold, replace both names: refold, refold_views.

DO $$
BEGIN
    -- A role belongs to the whole server: another database may have created it, even at this moment.
    IF to_regrole('refold_reader') IS NULL THEN
        CREATE ROLE refold_reader NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- The owner of the tables creates the views (create_view); its default privileges grant each new one.
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
    -- The wait for readers: it runs as the owner of the tables, which readers cannot see.
    CREATE OR REPLACE FUNCTION refold_views.refold_wait(sequence bigint, timeout_seconds double precision DEFAULT 10)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $wait$
    BEGIN
        PERFORM refold.refold_wait(sequence, timeout_seconds);
    END
    $wait$;
    EXECUTE format('ALTER FUNCTION refold_views.refold_wait(bigint, double precision) OWNER TO %I', owner);
END
$$;

REVOKE ALL ON FUNCTION refold_views.refold_wait(bigint, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION refold_views.refold_wait(bigint, double precision) TO refold_reader;
GRANT USAGE ON SCHEMA refold_views TO refold_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA refold_views TO refold_reader;

-- Rights that may have been granted before.
REVOKE ALL ON SCHEMA refold FROM refold_reader;
REVOKE ALL ON ALL TABLES IN SCHEMA refold FROM refold_reader;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA refold FROM refold_reader;
REVOKE CREATE ON SCHEMA refold_views FROM refold_reader;
