//! The `granary` binary: reads configuration, composes the roles, and shuts down cleanly.

mod admin;
mod admin_cli;
mod cluster;
mod config;
mod credentials;
mod descriptors;
mod files;
mod greeting;
mod listeners;
mod metrics;
mod process;
mod roles;
mod server;
mod start_config;
mod telemetry;
mod test_clock;
mod vault;

use std::process::ExitCode;

use clap::{Command, CommandFactory as _, Parser, Subcommand};
use rustix::fs::Mode;

use crate::admin_cli::{AdminCommand, Reach};
use crate::config::{ServerArgs, ServerConfig};
use crate::start_config::{StartArgs, StartConfig};

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
    /// Runs a node of a cluster.
    ///
    /// A setting comes from its flag, else its GRANARY_* variable, else the --config file, else
    /// the default.
    Start(Box<StartArgs>),
    /// Makes, watches and repairs a cluster.
    Admin {
        /// Configuration of a node of the cluster, for its address and its admin directory.
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Prints the operations of the OSS API that this version serves, as a table.
    Operations,
}

fn main() -> ExitCode {
    // Whatever Granary makes, databases and volumes included, is for its owner only.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let outcome = match Cli::parse().command {
        CliCommand::Server(args) => ServerConfig::load(*args).and_then(server::run),
        CliCommand::Start(args) => StartConfig::load(*args).and_then(cluster::node::run),
        CliCommand::Admin { reach, command } => {
            return match admin_cli::run(command, &reach) {
                Ok(code) => code,
                Err(error) => {
                    complain(&format!("granary: {error:#}"));
                    ExitCode::FAILURE
                }
            };
        }
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

/// `GRANARY_*` variables of the environment that no command knows: most likely misspelt.
fn unknown_variables() -> Vec<String> {
    let known = variables_of(&Cli::command());
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with("GRANARY_") && name != test_clock::VARIABLE)
        .filter(|name| !known.contains(name))
        .collect();
    unknown.sort();
    unknown
}

fn variables_of(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?;
        Some(name.to_string_lossy().into_owned())
    });
    let below = command.get_subcommands().flat_map(variables_of);
    own.chain(below).collect()
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
