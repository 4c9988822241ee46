//! Tests of the machine, one file per family of rules, on one rig.

mod deliveries;
mod ends;
mod inputs;
mod orders;
mod presence;
mod rig;
mod sessions;
mod starts;
