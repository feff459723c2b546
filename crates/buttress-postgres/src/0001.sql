-- The records of the idempotency layer, first version.
--
-- `PostgresStore` runs this when it connects and does not find the table. You can also run it
-- beforehand, in one transaction: psql -1 -f 0001.sql
--
-- Everything is created in the first schema of the search_path, and is found through the
-- search_path.

CREATE TABLE buttress_idempotency (
    key         bytea       PRIMARY KEY,
    -- The version of the record. A program does not touch a record of a version that it does not
    -- know.
    version     smallint    NOT NULL,
    -- The hash of the tenant. An operator can find and remove the records of a tenant by it.
    scope       bytea       NOT NULL,
    -- 1 reserved, 2 started, 3 taken over from a lost run, 4 completed, 5 unknown
    state       smallint    NOT NULL,
    owner       bytea       NOT NULL,
    fence       bigint      NOT NULL,
    fingerprint bytea       NOT NULL,
    since       timestamptz NOT NULL,
    -- The end of the lease (1 to 3), of the time to live (4) or of the retention (5).
    until       timestamptz NOT NULL,
    -- The retention if the record becomes unknown.
    unknown_for interval    NOT NULL,
    -- The fence of the lost run.
    taken_from  bigint,
    checkpoint  bytea,
    -- Null in a completed record whose response cannot be replayed.
    payload     bytea
);

-- Used by the clean-up.
CREATE INDEX buttress_idempotency_until ON buttress_idempotency (until);

-- Used for the unknown operations, including started ones whose lease has ended. This is a small
-- part of the table.
CREATE INDEX buttress_idempotency_unknown ON buttress_idempotency (key) WHERE state IN (2, 3, 5);

-- One sequence for all keys, so that fences grow even after the record of a key is gone. With a
-- cache, one session could return small fences after another has returned larger ones.
CREATE SEQUENCE buttress_fence AS bigint CACHE 1 NO CYCLE;

CREATE FUNCTION buttress_microseconds(span interval) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(0, (extract(epoch FROM span) * 1000000)::bigint)
$$;

CREATE FUNCTION buttress_span(microseconds bigint) RETURNS interval
LANGUAGE sql IMMUTABLE AS $$
    SELECT microseconds * interval '1 microsecond'
$$;

-- Rejects a record that a newer program has written.
CREATE FUNCTION buttress_check(r buttress_idempotency) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF r.version > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'BT001', MESSAGE = r.version::text;
    END IF;
END $$;

-- Brings a locked record up to date. Returns null if the record is then absent.
CREATE FUNCTION buttress_settle(r buttress_idempotency, t timestamptz) RETURNS buttress_idempotency
LANGUAGE plpgsql AS $$
DECLARE
    lapsed boolean := false;
BEGIN
    IF r.state IN (2, 3) AND r.until <= t THEN
        lapsed := true;
        r.state := 5;
        r.since := r.until;
        r.until := r.until + r.unknown_for;
        r.taken_from := NULL;
    END IF;
    IF r.until <= t THEN
        DELETE FROM buttress_idempotency WHERE key = r.key;
        RETURN NULL;
    END IF;
    IF lapsed THEN
        UPDATE buttress_idempotency SET
            state = r.state, since = r.since, until = r.until, taken_from = NULL
        WHERE key = r.key;
    END IF;
    RETURN r;
END $$;

-- The values of o_answer: 1 claimed, 2 in flight, 3 completed, 4 the record of another request,
-- 5 unknown.
CREATE FUNCTION buttress_claim(
    p_key bytea, p_scope bytea, p_owner bytea, p_fingerprint bytea, p_started boolean,
    p_take_over boolean, p_lease bigint, p_unknown_for bigint,
    OUT o_answer smallint, OUT o_fence bigint, OUT o_since bigint, OUT o_left bigint,
    OUT o_taken_from bigint, OUT o_fingerprint bytea, OUT o_checkpoint bytea, OUT o_payload bytea
) LANGUAGE plpgsql AS $$
DECLARE
    r buttress_idempotency;
    t timestamptz;
BEGIN
    -- Most duplicates can be served from committed data. They take no lock, write no log, and do
    -- not wait for a transaction that is about to complete the record.
    SELECT * INTO r FROM buttress_idempotency WHERE key = p_key;
    t := clock_timestamp();
    PERFORM buttress_check(r);
    IF r.key IS NULL OR r.until <= t OR (r.state IN (1, 2, 3) AND r.owner = p_owner)
        OR (r.state = 5 AND p_take_over AND r.fingerprint = p_fingerprint)
    THEN
        -- From here to the commit, claims of a key run one after the other. Otherwise this claim
        -- could take its fence, and another claim could take a larger fence and be released. This
        -- claim would then insert the smaller fence.
        PERFORM pg_advisory_xact_lock(
            ('x' || encode(substring(p_key FROM 1 FOR 8), 'hex'))::bit(64)::bigint);
        SELECT * INTO r FROM buttress_idempotency WHERE key = p_key FOR UPDATE;
        -- Read after the lock is held, because the claim may have waited for it.
        t := clock_timestamp();
        PERFORM buttress_check(r);

        -- Checked before the record is brought up to date. An owner that claims again has lost
        -- the response to its first claim and has not begun.
        IF r.state IN (1, 2, 3) AND r.owner = p_owner THEN
            UPDATE buttress_idempotency SET until = t + buttress_span(p_lease) WHERE key = p_key;
            o_answer := 1;
            o_fence := r.fence;
            o_taken_from := r.taken_from;
            o_checkpoint := CASE WHEN r.state = 3 THEN r.checkpoint END;
            RETURN;
        END IF;

        IF r.key IS NOT NULL THEN
            r := buttress_settle(r, t);
        END IF;
        IF r.key IS NULL THEN
            o_answer := 1;
            o_fence := nextval('buttress_fence');
            INSERT INTO buttress_idempotency
                (key, version, scope, state, owner, fence, fingerprint, since, until, unknown_for)
            VALUES
                (p_key, 1, p_scope, CASE WHEN p_started THEN 2 ELSE 1 END, p_owner, o_fence,
                 p_fingerprint, t, t + buttress_span(p_lease), buttress_span(p_unknown_for));
            RETURN;
        END IF;
        IF r.state = 5 AND p_take_over AND r.fingerprint = p_fingerprint THEN
            o_answer := 1;
            o_fence := nextval('buttress_fence');
            o_taken_from := r.fence;
            o_checkpoint := r.checkpoint;
            UPDATE buttress_idempotency SET
                version = 1, state = 3, owner = p_owner, fence = o_fence, since = t,
                until = t + buttress_span(p_lease), unknown_for = buttress_span(p_unknown_for),
                taken_from = r.fence
            WHERE key = p_key;
            RETURN;
        END IF;
    END IF;

    o_fence := r.fence;
    o_since := buttress_microseconds(t - r.since);
    o_left := buttress_microseconds(r.until - t);
    IF r.fingerprint <> p_fingerprint THEN
        o_answer := 4;
        o_fingerprint := r.fingerprint;
    ELSIF r.state IN (1, 2, 3) THEN
        o_answer := 2;
    ELSIF r.state = 4 THEN
        o_answer := 3;
        o_payload := r.payload;
    ELSIF r.state = 5 THEN
        o_answer := 5;
    END IF;
END $$;

-- Locks the record of a key and brings it up to date. Returns it with the current time.
CREATE FUNCTION buttress_current(
    p_key bytea, OUT r buttress_idempotency, OUT t timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT * INTO r FROM buttress_idempotency WHERE key = p_key FOR UPDATE;
    t := clock_timestamp();
    PERFORM buttress_check(r);
    IF r.key IS NOT NULL THEN
        r := buttress_settle(r, t);
    END IF;
END $$;

-- The same for a hold. Returns null if the hold does not own the record, or no longer owns it.
CREATE FUNCTION buttress_held(
    p_key bytea, p_owner bytea, p_fence bigint,
    OUT r buttress_idempotency, OUT t timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM buttress_current(p_key);
    r := h.r;
    t := h.t;
    IF r.owner <> p_owner OR r.fence <> p_fence THEN
        r := NULL;
    END IF;
END $$;

CREATE FUNCTION buttress_mark_started(p_key bytea, p_owner bytea, p_fence bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM buttress_held(p_key, p_owner, p_fence);
    IF (h.r).state = 1 THEN
        UPDATE buttress_idempotency SET state = 2 WHERE key = p_key;
    END IF;
    RETURN coalesce((h.r).state IN (1, 2, 3), false);
END $$;

CREATE FUNCTION buttress_checkpoint(
    p_key bytea, p_owner bytea, p_fence bigint, p_checkpoint bytea
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM buttress_held(p_key, p_owner, p_fence);
    IF (h.r).state IN (1, 2, 3) THEN
        UPDATE buttress_idempotency SET checkpoint = p_checkpoint WHERE key = p_key;
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- With p_first, a record that is completed already is not completed again. Otherwise the rest of
-- the transaction would have its effect twice.
CREATE FUNCTION buttress_complete(
    p_key bytea, p_owner bytea, p_fence bigint, p_payload bytea, p_ttl bigint, p_first boolean
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    -- This makes the commit durable in a transaction that is not in one of the store's sessions.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO h FROM buttress_held(p_key, p_owner, p_fence);
    IF (h.r).state IN (1, 2, 3) THEN
        UPDATE buttress_idempotency SET
            state = 4, since = h.t, until = h.t + buttress_span(p_ttl), payload = p_payload,
            taken_from = NULL, checkpoint = NULL
        WHERE key = p_key;
        RETURN true;
    END IF;
    RETURN coalesce((h.r).state = 4 AND NOT p_first, false);
END $$;

CREATE FUNCTION buttress_release(p_key bytea, p_owner bytea, p_unknown_for bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
    r buttress_idempotency;
    t timestamptz;
BEGIN
    SELECT * INTO h FROM buttress_current(p_key);
    r := h.r;
    t := h.t;
    IF r.owner = p_owner AND r.state IN (1, 2) THEN
        DELETE FROM buttress_idempotency WHERE key = p_key;
        RETURN true;
    ELSIF r.owner = p_owner AND r.state = 3 THEN
        UPDATE buttress_idempotency SET
            state = 5, since = t, until = t + buttress_span(p_unknown_for), taken_from = NULL
        WHERE key = p_key;
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION buttress_abandon(
    p_key bytea, p_owner bytea, p_fence bigint, p_unknown_for bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM buttress_held(p_key, p_owner, p_fence);
    IF (h.r).state IN (1, 2, 3) THEN
        UPDATE buttress_idempotency SET
            state = 5, since = h.t, until = h.t + buttress_span(p_unknown_for), taken_from = NULL
        WHERE key = p_key;
        RETURN true;
    END IF;
    RETURN coalesce((h.r).state = 5, false);
END $$;

-- With p_completed, the operation was done. Without it, the operation will never be done.
CREATE FUNCTION buttress_resolve(
    p_key bytea, p_fence bigint, p_completed boolean, p_payload bytea, p_ttl bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    h record;
    r buttress_idempotency;
    t timestamptz;
BEGIN
    SELECT * INTO h FROM buttress_current(p_key);
    r := h.r;
    t := h.t;
    IF r.key IS NULL OR r.state <> 5 OR r.fence <> p_fence THEN
        RETURN false;
    END IF;
    IF p_completed THEN
        UPDATE buttress_idempotency SET
            state = 4, since = t, until = t + buttress_span(p_ttl), payload = p_payload,
            checkpoint = NULL,
            -- Removes the owner. Otherwise the lost run would be told that its own result was
            -- recorded.
            owner = decode(repeat('00', 16), 'hex')
        WHERE key = p_key;
    ELSE
        DELETE FROM buttress_idempotency WHERE key = p_key;
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION buttress_renew(
    p_keys bytea[], p_owners bytea[], p_fences bigint[], p_lease bigint
) RETURNS boolean[]
LANGUAGE plpgsql AS $$
DECLARE
    h record;
    r buttress_idempotency;
    t timestamptz;
    renewed boolean[] := array_fill(false, ARRAY[cardinality(p_keys)]);
BEGIN
    -- In the order of the keys, because two calls that lock each other's rows would deadlock.
    FOR h IN
        SELECT * FROM unnest(p_keys, p_owners, p_fences)
            WITH ORDINALITY AS held (key, owner, fence, place)
        ORDER BY held.key
    LOOP
        -- A record that a newer program wrote counts as stale. It must not prevent the renewal of
        -- the others.
        SELECT * INTO r FROM buttress_idempotency AS i
        WHERE i.key = h.key AND i.owner = h.owner AND i.fence = h.fence AND i.version <= 1
        FOR UPDATE;
        t := clock_timestamp();
        IF r.key IS NOT NULL THEN
            r := buttress_settle(r, t);
        END IF;
        IF r.state IN (1, 2, 3) THEN
            UPDATE buttress_idempotency SET until = t + buttress_span(p_lease) WHERE key = h.key;
            renewed[h.place] := true;
        END IF;
    END LOOP;
    RETURN renewed;
END $$;

CREATE FUNCTION buttress_sweep(p_limit bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    r buttress_idempotency;
    -- Read before the rows are locked. A record whose time has ended now has still ended then. A
    -- record that was renewed in the meantime is checked again after it is locked.
    t timestamptz := clock_timestamp();
    swept bigint := 0;
BEGIN
    FOR r IN
        SELECT * FROM buttress_idempotency
        WHERE until <= t AND version <= 1
        ORDER BY until LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM buttress_settle(r, t);
        swept := swept + 1;
    END LOOP;
    RETURN swept;
END $$;
