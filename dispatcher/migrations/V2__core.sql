-- Up to when this replica has settled every outcome that the broker had handed to it, by the database clock: what is in its hands,
-- unacked, is in no queue that another replica could count (protocol C1). Null while it does not know.
ALTER TABLE replicas ADD COLUMN settled_through timestamptz;
