-- Trials of events that came back again and again: that one of them is handled alone is committed before it is begun, and forgotten when
-- it has ended. What is left was begun by a dispatcher that died in the middle (protocol D4). Few rows: most events never have one.
CREATE TABLE event_trials (
    trial_key bytea NOT NULL CHECK (octet_length(trial_key) = 32),
    trial_id uuid NOT NULL,
    replica_id uuid NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (trial_key, trial_id)
);
