//! What a storage node promises, on the disk engine: conformance, faults, recovery, compaction and
//! a model that random sequences with crashes are held against.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests, their helpers included"
)]

mod background;
mod compaction;
mod conformance;
mod faults;
mod hanging;
mod model;
mod opening;
mod support;
mod verifying;
