//! Steps are stored with each task; equal ones are read once and shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use switchyard_common::task::Step;

use super::error::StoreError;

/// Different step lists that are kept in memory; the cache starts anew beyond.
const STEP_LISTS_MAX_COUNT: usize = 1_024;

/// Stored text -> shared steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepsCache(Arc<Mutex<HashMap<String, Arc<[Step]>>>>);

impl StepsCache {
    pub(crate) fn read(&self, text: &str) -> Result<Arc<[Step]>, StoreError> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(steps) = cache.get(text) {
            return Ok(steps.clone());
        }
        let steps: Vec<Step> = serde_json::from_str(text)
            .map_err(|error| StoreError::Unreadable(format!("tasks.steps: {error}")))?;
        if steps.is_empty() {
            return Err(StoreError::Unreadable("tasks.steps: empty".into()));
        }
        if cache.len() >= STEP_LISTS_MAX_COUNT {
            cache.clear();
        }
        let steps: Arc<[Step]> = steps.into();
        cache.insert(text.to_owned(), steps.clone());
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_replica_has_stored_is_read_without_what_is_not_known() {
        let newer = r#"[{ "name": "plan", "handler": "plan", "repeatable": true, "approval": false, "parameters": {}, "color": "red",
            "policy": { "max_attempts": 2, "retry_on": ["failed"] } }]"#;
        let steps = StepsCache::default().read(newer).unwrap();
        assert_eq!((steps.len(), steps[0].policy.max_attempts), (1, 2));
    }
}
