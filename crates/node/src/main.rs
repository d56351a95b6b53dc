//! The `granary` binary: reads configuration, composes the roles, and shuts down cleanly.

mod config;
mod files;
mod telemetry;
mod vault;

fn main() {}
