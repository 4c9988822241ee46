//! The handlers of an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::contract::ids::{HandlerName, IdError};

use super::Handler;

/// Handlers by name: what the agent offers to the dispatcher.
#[derive(Clone, Default)]
pub struct Handlers(BTreeMap<HandlerName, Arc<dyn Handler>>);

/// Why a handler is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlersError {
    /// Not a name that steps can ask for.
    #[error("the handler name {name:?} {error}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: IdError,
    },
    /// Two handlers with one name.
    #[error("there are two handlers named {0}")]
    Twice(HandlerName),
}

impl Handlers {
    /// No handlers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler under a name.
    ///
    /// # Errors
    /// When the name is not one, or taken.
    pub fn with(mut self, name: &str, handler: impl Handler) -> Result<Self, HandlersError> {
        self.add(name, Arc::new(handler))?;
        Ok(self)
    }

    /// Adds a handler under a name.
    ///
    /// # Errors
    /// When the name is not one, or taken.
    pub fn add(&mut self, name: &str, handler: Arc<dyn Handler>) -> Result<(), HandlersError> {
        let named =
            HandlerName::new(name).map_err(|error| HandlersError::Name { name: name.to_owned(), error })?;
        if self.0.contains_key(&named) {
            return Err(HandlersError::Twice(named));
        }
        self.0.insert(named, handler);
        Ok(())
    }

    /// Every name.
    #[must_use]
    pub fn names(&self) -> BTreeSet<HandlerName> {
        self.0.keys().cloned().collect()
    }

    /// The longest time from a wish to stop to the end, of all of them.
    #[must_use]
    pub fn kill_grace_max(&self) -> Duration {
        self.0.values().map(|handler| handler.supervision().kill_grace()).max().unwrap_or_default()
    }

    pub(crate) fn get(&self, name: &HandlerName) -> Option<Arc<dyn Handler>> {
        self.0.get(name).map(Arc::clone)
    }
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
