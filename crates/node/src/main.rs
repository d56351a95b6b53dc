//! The `granary` binary: reads configuration, composes the roles, and shuts down cleanly.

mod admin;
mod config;
mod credentials;
mod descriptors;
mod files;
mod metrics;
mod roles;
mod server;
mod telemetry;
mod vault;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ServerArgs, ServerConfig};

/// One heap for Rust and RocksDB, which gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// An object store for machines you own that speaks the Alibaba Cloud OSS REST API.
#[derive(Parser)]
#[command(name = "granary", version, about)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Runs the whole store in one process.
    ///
    /// A setting comes from its flag, else its GRANARY_* variable, else the --config file, else
    /// the default.
    Server(Box<ServerArgs>),
    /// Prints the operations of the OSS API that this version serves, as a table.
    Operations,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        CliCommand::Server(args) => ServerConfig::load(*args).and_then(server::run),
        CliCommand::Operations => {
            print(&granary_gateway::operations_markdown());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("granary: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the user asked to be printed")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a process that cannot start"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}
