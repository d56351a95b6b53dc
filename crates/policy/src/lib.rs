//! Who may do what: a pure evaluator over facts that the gateway has already looked up.
//!
//! It must not know HTTP, XML, the wire or any store: callers hand it the caller, the action and
//! the attributes of what is touched, and it answers with a [`Decision`]. The model is the one of
//! the OSS access-control documentation:
//!
//! - the account that owns a bucket may do everything in it;
//! - anybody else, signed or anonymous, may do what the access control lists open to everybody;
//! - an object's own list, unless it is `default`, replaces the bucket's for reading and writing
//!   that object;
//! - public reading opens objects, never the listing of a bucket or its configuration.
//!
//! Invariant: whatever is not allowed explicitly is denied.

mod action;
mod evaluate;

pub use action::{Access, Action};
pub use evaluate::{BucketFacts, Caller, Decision, Facts, ObjectFacts, evaluate};
