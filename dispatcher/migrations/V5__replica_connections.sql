-- Whether this replica can send assignments: one whose connection for them is down looks after nothing that it published, however
-- fresh its sign of life, so others take that over (protocol B2).
ALTER TABLE replicas ADD COLUMN publishes boolean NOT NULL DEFAULT true;
