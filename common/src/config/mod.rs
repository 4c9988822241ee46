//! Typed configuration: values that must not be shown, units, and a loader that reports all errors at once.
//!
//! ```
//! use std::time::Duration;
//! use switchyard_common::config::{Loader, env_key, key, Secret};
//!
//! # fn load() -> Result<(Secret, Duration), switchyard_common::config::ConfigErrors> {
//! let mut loader = Loader::from_process();
//! let url = loader.required_secret(env_key("SWITCHYARD_AMQP_URL")); // or SWITCHYARD_AMQP_URL_FILE
//! let heartbeat = loader.value(key("broker.heartbeat", "SWITCHYARD_BROKER_HEARTBEAT"), Duration::from_secs(10));
//! let (url,) = loader.finish((url,))?;
//! # Ok((url, heartbeat)) }
//! ```

mod loader;
mod required;
mod secret;
mod value;

pub use loader::{ConfigErrors, Key, Loader, env_key, key, toml_key};
pub use required::Required;
pub use secret::{MASK, Secret, mask_url, mask_urls};
pub use value::{ByteSize, ConfigValue};
