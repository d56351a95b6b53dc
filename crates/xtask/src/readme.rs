//! Keeps the README's list of what works equal to the server's own table of operations.
//!
//! The list stands between two marker lines and is whatever `granary operations` prints.
//! `cargo run --release -p xtask -- readme` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const OPEN: &str = "<!-- operations:begin -->";
const CLOSE: &str = "<!-- operations:end -->";

/// Rewrites the block.
pub(crate) fn write(root: &Path) -> anyhow::Result<()> {
    let path = root.join("README.md");
    let text = fs::read_to_string(&path).context("README.md")?;
    fs::write(&path, replaced(&text, &table(root)?)?).context("README.md")
}

/// True if the block is what it should be; prints what to do otherwise.
#[expect(clippy::print_stdout, reason = "a command-line tool talks to its user")]
pub(crate) fn check(root: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string(root.join("README.md")).context("README.md")?;
    let same = replaced(&text, &table(root)?)? == text;
    if !same {
        println!(
            "README.md: the list of operations is old: cargo run --release -p xtask -- readme"
        );
    }
    Ok(same)
}

/// The list as the server prints it.
fn table(root: &Path) -> anyhow::Result<String> {
    let mut command = match binary() {
        Some(path) => Command::new(path),
        None => {
            let mut cargo = Command::new("cargo");
            cargo.args([
                "run",
                "--quiet",
                "--release",
                "-p",
                "granary-node",
                "--bin",
                "granary",
                "--",
            ]);
            cargo
        }
    };
    let output = command
        .args(["operations"])
        .current_dir(root)
        .output()
        .context("granary operations")?;
    if !output.status.success() {
        bail!(
            "granary operations: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("granary operations")
}

/// The server that a test run has built already.
#[expect(
    clippy::disallowed_methods,
    reason = "the tool is told where the binary is by the test script"
)]
fn binary() -> Option<PathBuf> {
    std::env::var("GRANARY_BIN")
        .ok()
        .map(PathBuf::from)
        .filter(|path| path.exists())
}

fn replaced(text: &str, table: &str) -> anyhow::Result<String> {
    let Some((before, rest)) = text.split_once(OPEN) else {
        bail!("README.md lacks the line {OPEN}")
    };
    let Some((_, after)) = rest.split_once(CLOSE) else {
        bail!("README.md lacks the line {CLOSE}")
    };
    Ok(format!(
        "{before}{OPEN}\n{}\n{CLOSE}{after}",
        table.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_changes() {
        let text = format!("# G\n\n{OPEN}\nold\n{CLOSE}\n\nrest\n");
        let new = replaced(&text, "| a |\n| b |\n").unwrap();
        assert_eq!(
            new,
            format!("# G\n\n{OPEN}\n| a |\n| b |\n{CLOSE}\n\nrest\n")
        );
        assert_eq!(replaced(&new, "| a |\n| b |").unwrap(), new);
        assert!(replaced("no markers", "x").is_err());
    }
}
