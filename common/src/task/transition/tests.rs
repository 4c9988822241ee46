//! Table tests of the transition function, one file per family of inputs as in the code, and the incidents that it guards alone.

mod assign;
mod fixtures;
mod incidents;
mod incidents_held;
mod loss;
mod people;
mod settle;
mod start;
mod timers;
