//! Accounts at the broker: one per role, written as a definitions file that RabbitMQ imports, with the URL of each in a file of its own.
//!
//! What each may do is data of the contract ([`switchyard_common::contract::access`]); here it gets passwords ([`secrets`]), becomes
//! RabbitMQ's JSON ([`definitions`]) and reaches the broker ([`admin`]). Every step can be repeated: the same input makes the same file.

pub mod admin;
pub mod definitions;
mod http;
pub mod secrets;

pub use admin::{Admin, AdminError};
pub use definitions::Account;
