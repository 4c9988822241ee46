-- What every task pays for, made cheaper.

-- The length of the newest batch of a lane, so that raising its rank needs no look at other tables.
ALTER TABLE lanes ADD COLUMN added bigint NOT NULL DEFAULT 0;

-- Nothing is looked up by lease: a report names its attempt, and the lease is compared. An index over random values costs a page of
-- its own per row.
ALTER TABLE attempts DROP CONSTRAINT attempts_lease_token_key;
