-- A task has at most one open attempt. Under a condition that no query states: the database took the old index for queries by agent and by
-- key, read all of it for each of them, and kept that plan, because at the time hardly anything was open.
CREATE UNIQUE INDEX attempts_one_open_of_task ON attempts (task_id) WHERE coalesce(outcome, '') = '';
DROP INDEX attempts_one_open;
