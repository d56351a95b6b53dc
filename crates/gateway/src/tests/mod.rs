//! The gateway over real sockets: the server's deadlines and limits, the order of the pipeline, and
//! every operation.

mod appends;
mod buckets;
mod callback;
mod client;
mod directories;
mod encoding;
mod fixture;
mod heads;
mod in_place;
mod links;
mod multipart;
mod objects;
mod post_object;
mod server;
mod settings;
mod traffic_limit;
