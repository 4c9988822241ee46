//! What the sweeps look for.
