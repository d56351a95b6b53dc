//! House rules as a program: `cargo run --release -p xtask -- check` and `-- readme [--check]`.
//!
//! `check` fails on what must never be (a forbidden crate edge, a file without its header, a broken
//! link) and only prints what is a matter of taste (a long file). It knows nothing of how Granary
//! works and depends on none of its crates.

#![expect(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod adr;
mod code;
mod graph;
mod links;
mod readme;
mod signals;
mod tree;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: xtask check | xtask readme [--check]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // At run time: a target directory may serve several clones, and each means its own files.
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = crate_dir.map_or_else(|| ".".into(), |dir| Path::new(&dir).join("../.."));
    let outcome = match words.as_slice() {
        ["check"] => check(&root),
        ["readme"] => readme::write(&root).map(|()| true),
        ["readme", "--check"] => readme::check(&root),
        _ => {
            println!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every rule over the working tree; false if one is broken.
fn check(root: &Path) -> anyhow::Result<bool> {
    let files = tree::read(root)?;
    let mut broken = graph::check(&graph::read(root)?);
    broken.extend(code::check(&files));
    broken.extend(links::check(&files));
    broken.extend(adr::check(&files));
    let signals = signals::find(&files);
    if !signals.is_empty() {
        println!("signals that a thing wants to be two (not failures):");
        signals.iter().for_each(|signal| println!("  {signal}"));
    }
    if broken.is_empty() {
        println!("house rules: {} files, all kept", files.len());
        return Ok(true);
    }
    println!("house rules that are broken:");
    broken.iter().for_each(|line| println!("  {line}"));
    Ok(false)
}
