//! Values as JSON for a column.

use serde::Serialize;
use serde_json::Value;

use crate::store::error::StoreError;

pub(super) fn to_json(what: &str, value: &impl Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
}

pub(super) fn opt_to_json(what: &str, value: Option<&impl Serialize>) -> Result<Option<Value>, StoreError> {
    value.map(|value| to_json(what, value)).transpose()
}
