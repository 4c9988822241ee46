-- The constraints of V4, on the rows that were there before. A migration of its own, because it may take long: each is a transaction, and
-- this lock (SHARE UPDATE EXCLUSIVE) lets others read and write.
ALTER TABLE tasks VALIDATE CONSTRAINT exclusive_stands_in_line;
ALTER TABLE tasks VALIDATE CONSTRAINT step_started_only_when_it_may_have;
ALTER TABLE tasks VALIDATE CONSTRAINT running_once_only_is_started;
ALTER TABLE tasks VALIDATE CONSTRAINT cancelled_does_not_wait;
