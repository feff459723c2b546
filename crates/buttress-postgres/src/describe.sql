WITH found AS (
    SELECT c.*, CASE relpersistence
        WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary'
    END AS kept
    FROM pg_class AS c
    WHERE oid IN (to_regclass('buttress_idempotency'), to_regclass('buttress_fence'))
)
SELECT format(
    '%s %s: %s%s',
    CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
        WHEN 'S' THEN 'sequence' ELSE 'relation' END,
    relname, kept, CASE WHEN relrowsecurity THEN ', row security' END
) FROM found
UNION ALL
SELECT format(
    'column %s %s%s', attname, format_type(atttypid, atttypmod),
    CASE WHEN attnotnull AND (atthasdef OR attidentity <> '') THEN ' not null default'
        WHEN attnotnull THEN ' not null' END
) FROM found JOIN pg_attribute ON attrelid = found.oid
WHERE relname = 'buttress_idempotency' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT format(
    '%s%s',
    CASE WHEN indisprimary THEN 'primary key' WHEN indisunique THEN 'unique index'
        ELSE 'index' END,
    -- Without the name and the storage parameters.
    regexp_replace(
        regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', ' using'), ' WITH \([^)]*\)', '')
) FROM found JOIN pg_index ON indrelid = found.oid
WHERE indisvalid
UNION ALL
SELECT format(
    'sequence of %s by %s, cache %s%s', format_type(seqtypid, NULL), seqincrement, seqcache,
    CASE WHEN seqcycle THEN ', cycle' END
) FROM found JOIN pg_sequence ON seqrelid = found.oid
UNION ALL
SELECT format('function %s: body %s', proname, prosrc) FROM pg_proc
WHERE proname LIKE 'buttress\_%' AND pg_function_is_visible(oid)
