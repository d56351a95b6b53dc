//! The gateway over real sockets: the server's deadlines and limits, the order of the pipeline, and
//! every operation.

mod client;
mod fixture;
mod server;
