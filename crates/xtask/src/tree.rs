//! The text files of the working tree, read once. Knows which directories are not the project's own.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Directories that hold what tools made, never what people wrote.
const SKIPPED: [&str; 7] = [
    ".git",
    "target",
    ".venv",
    "node_modules",
    "__pycache__",
    "granary-data",
    ".pytest_cache",
];

/// Kinds of files the rules look at.
const KINDS: [&str; 8] = ["rs", "md", "py", "sh", "toml", "proto", "lua", "yaml"];

/// One text file; `path` is relative to the root and uses `/`.
#[derive(Debug)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    /// The crate a file of `crates/` belongs to.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// True if the path ends in `.extension`.
    pub(crate) fn is(&self, extension: &str) -> bool {
        self.path
            .rsplit_once('.')
            .is_some_and(|(_, found)| found == extension)
    }

    /// True for Rust that only tests compile.
    pub(crate) fn is_test_code(&self) -> bool {
        let path = &self.path;
        path.contains("/tests/")
            || path.contains("/benches/")
            || path.contains("/testsuite/")
            || path.ends_with("/tests.rs")
            || path.ends_with("_tests.rs")
            || path.ends_with("/testsuite.rs")
    }

    /// The lines before the inline test module.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut lines = self.text.lines().enumerate().peekable();
        std::iter::from_fn(move || {
            let (number, line) = lines.next()?;
            let opens_tests = line.trim() == "#[cfg(test)]"
                && lines
                    .peek()
                    .is_some_and(|(_, next)| next.trim_start().starts_with("mod "));
            (!opens_tests).then_some((number + 1, line))
        })
    }
}

/// Every text file under `root`, in path order.
pub(crate) fn read(root: &Path) -> anyhow::Result<Vec<TextFile>> {
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, below: &str, files: &mut Vec<TextFile>) -> anyhow::Result<()> {
    let directory = root.join(below);
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name.clone()
        } else {
            format!("{below}/{name}")
        };
        if entry.file_type()?.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, files)?;
            }
        } else if name
            .rsplit_once('.')
            .is_some_and(|(_, kind)| KINDS.contains(&kind))
        {
            let text = fs::read_to_string(entry.path()).with_context(|| path.clone())?;
            files.push(TextFile { path, text });
        }
    }
    Ok(())
}
