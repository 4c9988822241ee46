//! Waiting for a condition: polled until it holds or a deadline passes. The only waiting that tests do: never a bare sleep.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Time between two looks.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look<T> {
    /// It holds.
    There(T),
    /// Not yet; what is there instead, for the message of a wait that was in vain.
    NotYet(String),
}

impl<T> Look<T> {
    /// There when `found` is something; else `instead` says what is.
    pub fn of(found: Option<T>, instead: impl FnOnce() -> String) -> Self {
        found.map_or_else(|| Self::NotYet(instead()), Self::There)
    }
}

impl Look<()> {
    /// There when `holds`.
    pub fn holds(holds: bool, instead: impl FnOnce() -> String) -> Self {
        Self::of(holds.then_some(()), instead)
    }
}

/// Looks again and again until it is there.
///
/// # Errors
/// When it is not there in time (the message says what was there instead), or a look fails.
pub async fn until<T>(
    what: impl Display,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Look<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match look().await.with_context(|| format!("while waiting for {what}"))? {
            Look::There(found) => return Ok(found),
            Look::NotYet(instead) if Instant::now() >= deadline => {
                bail!("waited {within:?} in vain for {what}; last seen: {instead}");
            }
            Look::NotYet(_) => tokio::time::sleep(POLL_PERIOD).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_until_it_is_there_and_says_what_was_there_instead() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            Ok(Look::of((looks == 3).then_some(looks), || format!("{looks} looks")))
        });
        assert_eq!(found.await.unwrap(), 3);
        let never = until("what never comes", Duration::ZERO, async || {
            Ok(Look::<()>::NotYet("something else".to_owned()))
        });
        let error = never.await.unwrap_err().to_string();
        assert!(
            error.contains("what never comes") && error.ends_with("last seen: something else"),
            "{error}"
        );
    }
}
