//! The gateway over real sockets: the server's deadlines and limits, the order of the pipeline, and
//! every operation.

mod buckets;
mod client;
mod directories;
mod encoding;
mod fixture;
mod multipart;
mod objects;
mod server;
mod settings;
mod traffic_limit;
