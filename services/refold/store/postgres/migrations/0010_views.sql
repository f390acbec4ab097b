-- A state as jsonb, NULL where jsonb cannot hold it (U+0000, a key or string too long): it never raises, so it
-- can be used in views, searches and indexes. A subtransaction forbids parallel plans.
CREATE FUNCTION refold_jsonb(value json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
BEGIN
    RETURN value::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

-- A state that contains U+0000, which jsonb cannot hold, in a form that a SQL/JSON path can be evaluated on: each U+0000 is
-- replaced by one character that occurs neither in the state nor in the path. A path without a backslash cannot name a
-- control character, so U+0001 to U+0007 are tried first: they sort next to U+0000 and belong to the same classes. Then come
-- the noncharacters U+FDD0 to U+FDEF, of which the last is also taken where all of them occur.
CREATE FUNCTION refold_searchable(value json, path text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
DECLARE
    written text := value::text;
    -- Canonical text holds control characters only as escapes, so this one temporarily replaces an escaped backslash.
    backslash text := chr(1);
    substitute text;
BEGIN
    SELECT c.escape INTO substitute
    FROM (
        SELECT code, '\u' || lpad(to_hex(code), 4, '0') AS escape
        FROM generate_series(CASE WHEN strpos(path, '\') = 0 THEN 1 ELSE 64976 END, 65007) AS code
        WHERE code < 8 OR code >= 64976
    ) AS c
    WHERE strpos(written, c.escape) = 0 AND strpos(written, chr(c.code)) = 0 AND strpos(path, chr(c.code)) = 0
    ORDER BY c.code
    LIMIT 1;
    written := replace(written, '\\', backslash);
    written := replace(written, '\u0000', coalesce(substitute, '\ufdef'));
    RETURN replace(written, backslash, '\\')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

-- Views for SQL clients: one per namespace, in the schema "<schema>_views", which survives a rebuild.
-- The functions run as the role that owns the tables, and look their own schema up at each call, because a rebuild
-- renames it.

-- Creates or replaces the view of a namespace's present documents, by default with the namespace's name. Grants and
-- the option security_barrier are kept. Returns the view's name, quoted. A namespace
-- without events is an error, because it may be misspelt.
CREATE FUNCTION create_view(namespace text, view_name text DEFAULT NULL) RETURNS text
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

-- Drops a view that create_view made; dependent objects prevent that.
CREATE FUNCTION drop_view(view_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid;
    views text;
    found regclass;
BEGIN
    GET DIAGNOSTICS own = PG_ROUTINE_OID;
    SELECT n.nspname || '_views' INTO STRICT views
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid = own;
    IF octet_length(view_name) <= 63 THEN
        found := to_regclass(format('%I.%I', views, view_name));
    END IF;
    IF coalesce(obj_description(found, 'pg_class'), '') NOT LIKE 'refold namespace %' THEN
        RAISE undefined_table USING
            MESSAGE = format('there is no view %I.%I that create_view made', views, left(view_name, 140));
    END IF;
    EXECUTE format('DROP VIEW %I.%I', views, view_name);
END
$$;

-- Recreates every view over the tables of the schema that contains this function, and returns their number:
-- for a rebuild, once its schema has the name of the live one.
CREATE FUNCTION recreate_views() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid;
    home text;
    made record;
    made_count integer := 0;
BEGIN
    GET DIAGNOSTICS own = PG_ROUTINE_OID;
    SELECT n.nspname INTO STRICT home
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid = own;
    FOR made IN
        SELECT c.relname, substr(obj_description(c.oid, 'pg_class'), length('refold namespace ') + 1) AS namespace
        FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace(quote_ident(home || '_views')) AND c.relkind = 'v'
            AND obj_description(c.oid, 'pg_class') LIKE 'refold namespace %'
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT %I.create_view($1, $2)', home) USING made.namespace, made.relname;
        made_count := made_count + 1;
    END LOOP;
    RETURN made_count;
END
$$;

REVOKE ALL ON FUNCTION create_view(text, text), drop_view(text), recreate_views() FROM PUBLIC;
