//! The `granary` binary: reads configuration, composes the roles, and shuts down cleanly.

mod accounts;
mod admin;
mod admin_cli;
mod bench_cli;
mod cluster;
mod config;
mod credentials;
mod descriptors;
mod files;
mod greeting;
mod listeners;
mod log_lines;
mod log_writer;
mod memory;
mod metrics;
mod process;
mod readiness;
mod roles;
mod server;
mod start_config;
mod telemetry;
mod test_clock;
mod vault;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, Parser, Subcommand};
use granary_bench::BenchArgs;
use rustix::fs::Mode;

use crate::admin_cli::{AdminCommand, Reach};
use crate::config::{ServerArgs, ServerConfig};
use crate::start_config::{StartArgs, StartConfig};

/// What a shell shows of a process that SIGPIPE has ended.
const READER_GONE: i32 = 128 + 13;

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
    /// Makes, watches and repairs a cluster; keeps the accounts of a server or a cluster.
    Admin {
        /// Configuration of a node of the cluster, for its address and its admin directory.
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Measures an endpoint that speaks OSS or S3: requests per second, latencies, errors.
    Bench(Box<BenchArgs>),
    /// Prints the operations of the OSS API that this version serves, as a table.
    Operations,
}

fn main() -> ExitCode {
    // Whatever Granary makes, databases and volumes included, is for its owner only.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = check_processor() {
        return ended(Err(error));
    }
    let outcome = match Cli::parse().command {
        CliCommand::Server(args) => ServerConfig::load(*args).and_then(server::run),
        CliCommand::Start(args) => StartConfig::load(*args).and_then(cluster::node::run),
        CliCommand::Admin { reach, command } => return ended(admin_cli::run(command, &reach)),
        CliCommand::Bench(args) => return ended(bench_cli::run(*args)),
        CliCommand::Operations => {
            print(&granary_gateway::operations_markdown());
            Ok(())
        }
    };
    ended(outcome.map(|()| ExitCode::SUCCESS))
}

/// Says what RocksDB is compiled for (`.cargo/config.toml`), where the process would end without a word. What
/// runs before `main` cannot be checked.
fn check_processor() -> anyhow::Result<()> {
    #[cfg(target_arch = "x86_64")]
    anyhow::ensure!(
        is_x86_feature_detected!("sse4.2"),
        "this processor lacks SSE 4.2, which x86-64 processors have since 2010; a virtual machine may hide it: choose a CPU model that has it"
    );
    Ok(())
}

/// The exit code of a command, which says what was wrong.
fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        complain(&format!("granary: {}", said(&error)));
        ExitCode::FAILURE
    })
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

/// Prints what the user asked for. Nobody who reads it any more ends the process, as a signal would.
fn print(text: &str) {
    if let Err(error) = print_if_read(text) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(&format!(
                "granary: cannot write to the standard output: {error}"
            ));
        }
        std::process::exit(READER_GONE);
    }
}

/// Prints what a process says that goes on.
fn print_if_read(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// What is wrong, and why, each cause once.
fn said(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if said.is_empty() {
            said = cause;
        } else if !said.ends_with(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// Says what is wrong. Who does not read it changes nothing.
fn complain(text: &str) {
    let _ = complain_if_read(text);
}

/// Says something to whoever reads the standard error.
fn complain_if_read(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}
