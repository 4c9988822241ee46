//! worker-agent
fn main() {}
