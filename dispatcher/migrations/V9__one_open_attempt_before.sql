-- The index that V8 replaces. A transaction of its own: one that makes an index and then drops another raises its lock, and would meet
-- whoever waits for the first with the second in hand.
DROP INDEX attempts_one_open;
