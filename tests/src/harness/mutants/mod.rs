//! The listed patches that remove a guard each, and the test that must fail then.
//!
//! - [`list`]: what `tests/mutants/*.toml` say
//! - [`tree`]: a copy of the checkout in which guards are removed, so that the checkout itself stays as it is
//! - [`switched`]: many guards behind a switch each, so that one build serves them all
//! - [`mod@install`]: puts them into the copy
//! - [`guards`]: those that a run of chaos must miss
//! - [`check`]: runs the test of a mutant and says what killed it

pub mod check;
pub mod guards;
pub mod install;
pub mod list;
pub mod switched;
pub mod tree;

pub use check::{Check, Verdict, errors_in};
pub use install::{install, restore};
pub use list::{Mutant, Switch, listed};
pub use tree::Tree;
