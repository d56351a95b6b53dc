//! The gateway over real sockets: the server's deadlines and limits, the order of the pipeline, and
//! every operation.

mod appends;
mod buckets;
mod client;
mod encoding;
mod fixture;
mod in_place;
mod multipart;
mod objects;
mod server;
mod settings;
mod traffic_limit;
