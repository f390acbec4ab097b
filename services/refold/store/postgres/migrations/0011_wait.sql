-- For SQL clients that have received an outcome: waits until the projection has committed a sequence of the log, and raises
-- where that takes too long. In a statement of its own, under READ COMMITTED: other transactions do not see later commits.
CREATE FUNCTION refold_wait(sequence bigint, timeout_seconds double precision DEFAULT 10) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid;
    home text;
    committed bigint;
    ends_at timestamptz := clock_timestamp() + timeout_seconds * interval '1 second';
BEGIN
    IF sequence IS NULL OR timeout_seconds IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'refold_wait(sequence, timeout_seconds): both must be numbers';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE invalid_transaction_state USING
            MESSAGE = format('refold_wait: a transaction in %s does not see later commits',
                upper(current_setting('transaction_isolation'))),
            HINT = 'Wait before the transaction begins, or use READ COMMITTED.';
    END IF;
    GET DIAGNOSTICS own = PG_ROUTINE_OID;
    SELECT n.nspname INTO STRICT home
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid = own;
    LOOP
        EXECUTE format('SELECT min(read_sequence) FROM %I.shards', home) INTO committed;
        IF committed >= sequence THEN
            RETURN;
        END IF;
        IF clock_timestamp() >= ends_at THEN
            RAISE query_canceled USING
                MESSAGE = format('refold_wait: after %s s the projection has committed %s, not %s', timeout_seconds,
                    coalesce(committed, 0), sequence);
        END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
END
$$;
