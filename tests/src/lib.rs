//! Harness, simulation, end-to-end scenarios, incidents and benchmarks of Switchyard.

pub mod harness;
