-- A task has at most one open attempt. Under a condition that no query states: the database took the index of V1 for queries by agent and by
-- key, and read all of it for each of them, because when it planned hardly anything was open. What writes attempts waits while this one is
-- built, about a second per million attempts that are kept.
CREATE UNIQUE INDEX attempts_one_open_of_task ON attempts (task_id) WHERE coalesce(outcome, '') = '';
