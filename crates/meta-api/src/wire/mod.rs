//! The seam over gRPC: a client for the sending side, a service for the receiving one.
//!
//! Neither retries nor routes: that is [`crate::Meta`]'s business, whatever is below it.

mod client;
mod control;
mod server;

pub use client::GrpcMeta;
pub use control::{GrpcMetaControl, control_routes};
pub use server::{ProposeCheck, checked_routes, routes};

/// Longest message, in bytes: a full log entry or a full page of a listing, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
