-- More of common/src/task/invariant.rs, said by the schema. Not valid yet: to look at every row under this lock would stop all work for
-- as long as that takes. New and changed rows are held to them from now on; V6 looks at those that are there.
ALTER TABLE tasks
    -- Protocol E2, H: an exclusive task stands in its workspace's line, unless it waits for its own time and never held anything.
    ADD CONSTRAINT exclusive_stands_in_line CHECK (
        NOT exclusive OR position IS NOT NULL OR status IN ('succeeded', 'failed', 'cancelled')
        OR (status = 'pending' AND run_after IS NOT NULL AND NOT holds)) NOT VALID,
    -- Design 6.4: `assigned` proves that nothing has run.
    ADD CONSTRAINT step_started_only_when_it_may_have CHECK (
        NOT step_started
        OR (NOT step_repeatable AND status NOT IN ('blocked', 'pending', 'awaiting_approval', 'assigned'))) NOT VALID,
    ADD CONSTRAINT running_once_only_is_started CHECK (status <> 'running' OR step_repeatable OR step_started) NOT VALID,
    -- Protocol H: a cancel of a task that nobody has in hand ends it at once.
    ADD CONSTRAINT cancelled_does_not_wait CHECK (
        cancel_requested_at IS NULL OR status NOT IN ('blocked', 'pending', 'awaiting_approval')) NOT VALID;

-- When a sign of life last listed an uncertain attempt as running: by any session of its agent.
ALTER TABLE attempts ADD COLUMN listed_at timestamptz;

-- When, and by whom, the process of a session was said to have ended: its container terminated (protocol G, H).
ALTER TABLE agent_sessions
    ADD COLUMN terminated_at timestamptz,
    ADD COLUMN terminated_by text,
    ADD CONSTRAINT termination_names_its_author CHECK ((terminated_at IS NULL) = (terminated_by IS NULL));

-- An agent is told to drain until it says that it does; it is retired once its queue is drained and deleted. A new session undoes both.
ALTER TABLE agents
    ADD COLUMN drain_requested_at timestamptz,
    ADD COLUMN drain_requested_by text,
    ADD COLUMN retire_requested_at timestamptz,
    ADD COLUMN retire_requested_by text,
    ADD COLUMN retired_at timestamptz,
    ADD CONSTRAINT drain_names_its_author CHECK ((drain_requested_at IS NULL) = (drain_requested_by IS NULL)),
    ADD CONSTRAINT retirement_names_its_author CHECK ((retire_requested_at IS NULL) = (retire_requested_by IS NULL)),
    ADD CONSTRAINT retired_is_not_live CHECK (retired_at IS NULL OR NOT live);
CREATE INDEX agents_to_drain ON agents (pool_id, agent_id) WHERE live AND drain_requested_at IS NOT NULL AND NOT draining;
CREATE INDEX agents_to_retire ON agents (last_seen) WHERE NOT live AND retired_at IS NULL;

-- While replicas of the version before this schema are at work: they write signs of life without these columns, and those of an agent
-- that has come back would be refused. To go with a later schema, when no such replica can be left.
CREATE FUNCTION agent_is_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.retired_at := NULL;
    IF NEW.session <> OLD.session THEN
        NEW.drain_requested_at := NULL;
        NEW.drain_requested_by := NULL;
        NEW.retire_requested_at := NULL;
        NEW.retire_requested_by := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER agent_is_back BEFORE UPDATE OF live ON agents
    FOR EACH ROW WHEN (NEW.live AND (NEW.retired_at IS NOT NULL OR NEW.session <> OLD.session))
    EXECUTE FUNCTION agent_is_back();
