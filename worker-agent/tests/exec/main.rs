//! Real programs (`sh`) under the real supervisor: how runs end, what they leave, and that nothing survives them.

mod ends;
mod fixture;
