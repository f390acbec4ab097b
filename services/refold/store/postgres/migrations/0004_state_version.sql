-- A large document's state may be behind its row's version: `state_version` is then the version of the state, else NULL.
-- For small documents it is always NULL, so that the index below does not prevent their heap-only updates.
ALTER TABLE documents
    ADD COLUMN state_version bigint,
    ADD CONSTRAINT documents_lagging_state CHECK (state_version IS NULL OR state IS NOT NULL);

CREATE INDEX documents_lagging ON documents (namespace, document) WHERE state_version IS NOT NULL;

-- Unchanged, but the view shows the version of its states.
-- Creates or replaces the view of a namespace's present documents, by default with the namespace's name. Grants and
-- the option security_barrier are kept. Returns the view's name, quoted.
CREATE OR REPLACE FUNCTION create_view(namespace text, view_name text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid;
    home text;
    views text;
    name text := coalesce(view_name, namespace);
    found regclass;
    options text;
BEGIN
    GET DIAGNOSTICS own = PG_ROUTINE_OID;
    SELECT n.nspname INTO STRICT home
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid = own;
    views := home || '_views';
    IF namespace IS NULL OR namespace !~ '^[A-Za-z0-9_:=@+~-]{1,128}$' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('namespace: 1 to 128 of A-Z a-z 0-9 _ - : = @ + ~ (got %L)', left(namespace, 140));
    END IF;
    IF octet_length(name) NOT BETWEEN 1 AND 63 THEN
        RAISE name_too_long USING
            MESSAGE = format('a view''s name has 1 to 63 bytes in PostgreSQL (got %s)', octet_length(name)),
            HINT = 'Name the view yourself: create_view(namespace, view_name).';
    END IF;
    IF octet_length(views) > 63 THEN
        RAISE name_too_long USING
            MESSAGE = format('the schema of the views, %I, would have more than 63 bytes', views);
    END IF;
    IF to_regnamespace(quote_ident(views)) IS NULL THEN
        EXECUTE format('CREATE SCHEMA %I', views);
    END IF;
    found := to_regclass(format('%I.%I', views, name));
    IF found IS NOT NULL AND coalesce(obj_description(found, 'pg_class'), '') NOT LIKE 'refold namespace %' THEN
        RAISE duplicate_table USING
            MESSAGE = format('%s is not a view that create_view made', found);
    END IF;
    SELECT ' WITH (' || array_to_string(c.reloptions, ', ') || ')' INTO options
    FROM pg_class AS c
    WHERE c.oid = found;
    -- Whole microseconds are what a timestamptz can hold.
    EXECUTE format(
        $view$
            CREATE OR REPLACE VIEW %1$I.%2$I%3$s AS
            SELECT
                d.document,
                d.version,
                d.version_sequence AS sequence,
                timestamptz 'epoch' + d.recorded_at / 1000 * interval '1 microsecond' AS recorded_at,
                d.recorded_at AS recorded_at_ns,
                timestamptz 'epoch' + d.occurred_at / 1000 * interval '1 microsecond' AS occurred_at,
                %4$I.refold_jsonb(d.state) AS state,
                d.state AS state_json,
                coalesce(d.state_version, d.version) AS state_version
            FROM %4$I.documents AS d
            WHERE d.namespace = %5$L AND d.state IS NOT NULL
        $view$,
        views, name, options, home, namespace
    );
    EXECUTE format('COMMENT ON VIEW %I.%I IS %L', views, name, 'refold namespace ' || namespace);
    RETURN format('%I.%I', views, name);
END
$$;

SELECT recreate_views();
