//! Is the store in reach of this replica? Where it is not for long, reports go back to the broker, since others may reach it.

use std::time::Duration;

use switchyard_common::shutdown::Shutdown;

use crate::store::{Db, StoreError};

/// How long the store may be away before everything in hand goes back to the broker. An outcome waits for longer for its parts, which
/// may be among that ([`HELD_MAX`](super::held::HELD_MAX)).
pub const GIVEN_BACK_AFTER: Duration = Duration::from_secs(10);
/// How often the store is looked for then.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// What `work` gives, and whether `takes_long` was called because that took too long: who asks over a connection that has silently gone
/// waits for minutes.
pub async fn soon<T>(work: impl Future<Output = T>, takes_long: impl FnOnce()) -> (T, bool) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return (done, false),
        () = tokio::time::sleep(GIVEN_BACK_AFTER) => takes_long(),
    }
    (work.await, true)
}

/// Waits until the store answers. False when shutdown came first.
pub async fn answers_within_reach(db: &Db, shutdown: &Shutdown) -> bool {
    loop {
        match shutdown.unless_requested(tokio::time::timeout(LOOK_MAX, answers(db))).await {
            None => return false,
            Some(Ok(Ok(()))) => return true,
            Some(still_away) => tracing::debug!(?still_away, "the store is still away"),
        }
        if !shutdown.sleep(LOOK_EVERY).await {
            return false;
        }
    }
}

/// Whether a transaction can be begun and ended.
async fn answers(db: &Db) -> Result<(), StoreError> {
    db.transaction(|transaction| async move { transaction.now().await.map(drop) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_long_is_said_to_once_and_is_not_given_up() {
        let after = |duration| async move {
            tokio::time::sleep(duration).await;
            "done"
        };
        let mut said = 0;
        let millisecond = Duration::from_millis(1);
        assert_eq!(soon(after(GIVEN_BACK_AFTER - millisecond), || said += 1).await, ("done", false));
        assert_eq!(said, 0);
        assert_eq!(soon(after(GIVEN_BACK_AFTER * 9), || said += 1).await, ("done", true));
        assert_eq!(said, 1);
    }
}
