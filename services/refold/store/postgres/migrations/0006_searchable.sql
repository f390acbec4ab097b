-- A state that contains U+0000, which jsonb cannot hold, in a form that a SQL/JSON path can be evaluated on: each U+0000 is
-- replaced by one character that occurs neither in the state nor in the path. A path without a backslash cannot name a
-- control character, so U+0001 to U+0007 are tried first: they sort next to U+0000 and belong to the same classes. Then come
-- the noncharacters U+FDD0 to U+FDEF, of which the last is also taken where all of them occur.
-- `refold_jsonb` is unchanged, so that views and the indexes on it keep their contents.
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
