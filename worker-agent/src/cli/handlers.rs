//! The `[handlers.<name>]` tables: programs and builtin handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::config::{Loader, toml_key};
use switchyard_common::contract::ids::HandlerName;
use toml::Table;

use crate::builtin::{self, Graced};
use crate::exec::config::parse_handlers;
use crate::exec::find::find;
use crate::exec::limits::KILL_GRACE_MAX_MS;
use crate::exec::spec::ProgramSpec;
use crate::exec::task::Runner;
use crate::handler::{Handlers, HandlersError, KILL_GRACE_DEFAULT};
use crate::program::Program;

/// The handlers of a configuration, not yet made.
#[derive(Debug, Clone, Default)]
pub struct HandlerSpecs {
    programs: BTreeMap<String, ProgramSpec>,
    builtins: BTreeMap<String, Builtin>,
}

/// One of the handlers that come with the agent.
#[derive(Debug, Clone)]
struct Builtin {
    /// Its name in [`builtin::NAMES`].
    name: String,
    kill_grace: Duration,
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
            match read_builtin(&table) {
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
        let builtins = self.builtins.values().map(|builtin| builtin.kill_grace);
        programs.chain(builtins).max().unwrap_or_default()
    }

    /// True when there is a program among them, so that a work root is needed.
    #[must_use]
    pub fn has_programs(&self) -> bool {
        !self.programs.is_empty()
    }

    /// The programs that an agent with this environment could not start, and why.
    #[must_use]
    pub fn not_found(&self, agent_env: &BTreeMap<OsString, OsString>) -> Vec<String> {
        let find =
            |(name, spec)| find(spec, agent_env).err().map(|error| format!("handlers.{name}: {error}"));
        self.programs.iter().filter_map(find).collect()
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let programs =
            self.programs.iter().map(|(name, spec)| format!("{name} = {}", spec.command.join(" ")));
        let builtins =
            self.builtins.iter().map(|(name, builtin)| format!("{name} = builtin {}", builtin.name));
        programs.chain(builtins).collect::<Vec<_>>().join("; ")
    }

    /// Makes the handlers; programs are run by `runner`.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn make(self, runner: Option<&Arc<Runner>>) -> Result<Handlers, HandlersError> {
        let mut handlers = Handlers::new();
        for (name, builtin) in &self.builtins {
            if let Some(handler) = builtin::find(&builtin.name) {
                handlers.add(name, Arc::new(Graced { handler, kill_grace: builtin.kill_grace }))?;
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

fn read_builtin(table: &toml::Value) -> Result<Builtin, String> {
    let known = |key: &String| key == "builtin" || key == "kill_grace_ms";
    if table.as_table().is_some_and(|table| !table.keys().all(known)) {
        return Err("a builtin handler takes no other key than kill_grace_ms".to_owned());
    }
    let name = table.get("builtin").and_then(toml::Value::as_str).unwrap_or_default();
    if builtin::find(name).is_none() {
        return Err(format!("builtin must be one of {}", builtin::NAMES.join(", ")));
    }
    let kill_grace = table.get("kill_grace_ms").map_or(Ok(KILL_GRACE_DEFAULT), |value| {
        let ms =
            value.as_integer().and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms <= KILL_GRACE_MAX_MS);
        let wrong = || format!("kill_grace_ms must be a whole number from 0 to {KILL_GRACE_MAX_MS}");
        ms.map(Duration::from_millis).ok_or_else(wrong)
    })?;
    Ok(Builtin { name: name.to_owned(), kill_grace })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Builtin, String> {
        read_builtin(&toml::Value::Table(toml::from_str(text).unwrap()))
    }

    #[test]
    fn a_builtin_handler_has_the_kill_grace_of_its_table() {
        assert_eq!(read("builtin = \"test\"").unwrap().kill_grace, KILL_GRACE_DEFAULT);
        let short = read("builtin = \"test\"\nkill_grace_ms = 500").unwrap();
        assert_eq!(short.kill_grace, Duration::from_millis(500));
        for wrong in ["kill_grace_ms = -1", "kill_grace_ms = \"5s\"", "kill_grace_ms = 600001", "more = 1"] {
            assert!(read(&format!("builtin = \"test\"\n{wrong}")).is_err(), "{wrong}");
        }
    }
}
