//! Tools that stand beside the product and never in it: what tests and benchmarks compare it with.
//!
//! Invariant: no crate has this one as a normal dependency (`xtask check`).
