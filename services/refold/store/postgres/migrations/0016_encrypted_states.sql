-- States may be encrypted: such a state is the JSON string "encrypted:..." after a space, with which no canonical text begins.
-- SQL that reads one raises: a condition on it would silently find nothing.

-- A state as jsonb, NULL where jsonb cannot hold it (U+0000, a key or string too long). It raises only for an encrypted
-- state, so it can be used in views and searches, and in indexes where states are not encrypted. A subtransaction forbids
-- parallel plans.
CREATE OR REPLACE FUNCTION refold_jsonb(value json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    converted jsonb;
BEGIN
    BEGIN
        converted := value::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
    END;
    -- The type first: reading a large text again takes time.
    IF jsonb_typeof(converted) = 'string' AND starts_with(value::text, ' "encrypted:') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'RF001',
            MESSAGE = 'the state is encrypted (REFOLD_ENCRYPT=all): SQL cannot read it, the gateway can',
            HINT = 'With REFOLD_ENCRYPT=history, `refold rebuild` writes all states as SQL can read them.';
    END IF;
    RETURN converted;
END
$$;

-- A state as it is, for views. It raises for an encrypted state.
CREATE FUNCTION refold_json(value json) RETURNS json
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
    IF substr(value::text, 1, 12) = ' "encrypted:' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'RF001',
            MESSAGE = 'the state is encrypted (REFOLD_ENCRYPT=all): SQL cannot read it, the gateway can',
            HINT = 'With REFOLD_ENCRYPT=history, `refold rebuild` writes all states as SQL can read them.';
    END IF;
    RETURN value;
END
$$;

-- Creates or replaces the view of a namespace's present documents, by default with the namespace's name. Grants and
-- the option security_barrier are kept. Returns the view's name, quoted. A namespace
-- without events is an error, because it may be misspelt.
CREATE OR REPLACE FUNCTION create_view(namespace text, view_name text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid;
    is_known boolean;
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
    IF found IS NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.namespaces AS n WHERE n.namespace = $1)', home)
        INTO is_known
        USING namespace;
        IF NOT is_known THEN
            RAISE undefined_object USING
                MESSAGE = format('there is no namespace %s', namespace),
                HINT = 'The table namespaces lists those that have had events.';
        END IF;
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
                %4$I.refold_json(d.state) AS state_json,
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
