//! `granary bench`: measures any endpoint that speaks OSS or S3, as one of its clients.
//!
//! Must know nothing of how Granary stores: it is a client, and measures other stores with the same requests.
//!
//! | module | what it knows |
//! |---|---|
//! | `settings` | arguments and variables, checked |
//! | `workload` | names of workloads: which requests, in which shares |
//! | `endpoint`, `signing` | where the store is, and how requests are signed there |
//! | `content`, `objects` | bodies that can be told again, the keys of a run |
//! | `connection`, `request`, `failure` | a request sent, its answer checked, what was wrong with it |
//! | `pulse` | whether a request stands still |
//! | `chore`, `load` | storing and deleting objects; the requests that are measured |
//! | `measure`, `report`, `progress` | latencies and rates, the table and the JSON, bars |
//! | `run` | all of it in order |
//!
//! Bounded: bodies are made and checked while they pass; see `--help` for the memory.

mod chore;
mod connection;
mod content;
mod endpoint;
mod failure;
mod load;
mod measure;
mod objects;
mod progress;
mod pulse;
mod report;
mod request;
mod run;
mod settings;
mod signing;
#[cfg(test)]
mod tests;
mod workload;

pub use run::{BenchError, Console, Verdict, run};
pub use settings::{BenchArgs, SettingError};
