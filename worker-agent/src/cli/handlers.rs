//! The `[handlers.<name>]` tables: programs and builtin handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::config::{Loader, toml_key};
use switchyard_common::contract::ids::HandlerName;
use toml::Table;

use crate::builtin;
use crate::exec::config::parse_handlers;
use crate::exec::spec::ProgramSpec;
use crate::exec::task::Runner;
use crate::handler::{Handlers, HandlersError, KILL_GRACE_DEFAULT};
use crate::program::Program;

/// The handlers of a configuration, not yet made.
#[derive(Debug, Clone, Default)]
pub struct HandlerSpecs {
    programs: BTreeMap<String, ProgramSpec>,
    /// Name to builtin name.
    builtins: BTreeMap<String, String>,
}

impl HandlerSpecs {
    /// Reads the tables; what is wrong is told to the loader.
    pub(super) fn read(loader: &mut Loader, base_dir: &Path) -> Option<Self> {
        let place = toml_key("handlers");
        let Some(tables) = loader.section::<Table>("handlers") else {
            loader.error(place, "are missing: name a file with [handlers.<name>] tables with --config");
            return None;
        };
        let (builtins, programs): (Table, Table) =
            tables.into_iter().partition(|(_, table)| table.get("builtin").is_some());
        let mut specs = Self::default();
        for (name, table) in builtins {
            match builtin_name(&table) {
                Ok(builtin) => {
                    specs.builtins.insert(name, builtin);
                }
                Err(wrong) => loader.error(place, &format!("{name}: {wrong}")),
            }
        }
        match parse_handlers(&programs, base_dir) {
            Ok(programs) => specs.programs = programs,
            Err(errors) => errors.0.iter().for_each(|error| loader.error(place, &error.to_string())),
        }
        Some(specs)
    }

    /// Every name that can be one. Others are told by the reading of the tables.
    #[must_use]
    pub fn names(&self) -> BTreeSet<HandlerName> {
        let names = self.programs.keys().chain(self.builtins.keys());
        names.filter_map(|name| HandlerName::new(name).ok()).collect()
    }

    /// The longest time from a wish to stop to the end, of all of them.
    #[must_use]
    pub fn kill_grace_max(&self) -> Duration {
        let programs = self.programs.values().map(|spec| spec.kill_grace);
        let builtins = self.builtins.values().map(|_| KILL_GRACE_DEFAULT);
        programs.chain(builtins).max().unwrap_or_default()
    }

    /// True when there is a program among them, so that a work root is needed.
    #[must_use]
    pub fn has_programs(&self) -> bool {
        !self.programs.is_empty()
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let programs =
            self.programs.iter().map(|(name, spec)| format!("{name} = {}", spec.command.join(" ")));
        let builtins = self.builtins.iter().map(|(name, builtin)| format!("{name} = builtin {builtin}"));
        programs.chain(builtins).collect::<Vec<_>>().join("; ")
    }

    /// Makes the handlers; programs are run by `runner`.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn make(self, runner: Option<&Arc<Runner>>) -> Result<Handlers, HandlersError> {
        let mut handlers = Handlers::new();
        for (name, builtin) in &self.builtins {
            if let Some(handler) = builtin::find(builtin) {
                handlers.add(name, handler)?;
            }
        }
        for (name, spec) in self.programs {
            if let Some(runner) = runner {
                handlers.add(&name, Arc::new(Program::new(Arc::clone(runner), spec)))?;
            }
        }
        Ok(handlers)
    }
}

fn builtin_name(table: &toml::Value) -> Result<String, String> {
    let others = table.as_table().is_some_and(|table| table.len() > 1);
    if others {
        return Err("a builtin handler takes no other keys".to_owned());
    }
    let name = table.get("builtin").and_then(toml::Value::as_str).unwrap_or_default();
    if builtin::find(name).is_none() {
        return Err(format!("builtin must be one of {}", builtin::NAMES.join(", ")));
    }
    Ok(name.to_owned())
}
