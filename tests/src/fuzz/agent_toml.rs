//! The agent's TOML file with its handlers: it is taken, or everything wrong in it is told at once.

use std::path::Path;

use switchyard_common::config::Loader;
use switchyard_common::contract::limits::HANDLERS_MAX_COUNT;
use switchyard_worker_agent::cli::ProcessConfig;

use super::dispatcher_toml::{check_errors, names_a_file};

/// The password of the URL in the environment.
const PASSWORD: &str = "correct-horse-battery";

/// Reads the configuration.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What the input holds itself may be told.
    if names_a_file(&text) || text.contains(PASSWORD) {
        return;
    }
    let url = ("SWITCHYARD_AMQP_URL".to_owned(), format!("amqp://u:{PASSWORD}@localhost"));
    let loader = Loader::new([url], Some(&text));
    match ProcessConfig::read(loader, Path::new("/etc/switchyard"), Some("host-0".to_owned())) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains(PASSWORD), "a password is shown");
            let names = config.handlers.names();
            assert!(names.len() <= HANDLERS_MAX_COUNT);
            assert!(!config.handlers.describe().contains('\0'), "a command that cannot be run");
            let handlers = config.handlers.make(None).expect("handlers that were taken can be made");
            let _in_order_or_said_why = config.agent.check(&handlers);
        }
        Err(errors) => check_errors(&errors.0, PASSWORD),
    }
}
