//! Rules about source text that a compiler does not check. Reads lines, not syntax trees: a rule that
//! needs more than a line is not worth having here.

use crate::tree::TextFile;

/// Module names that say nothing about what is inside.
const DRAWERS: [&str; 6] = ["common", "util", "utils", "helpers", "misc", "core"];

/// What only the `runtime` crate may call, so that a simulation controls time, chance and tasks.
const AMBIENT: [&str; 11] = [
    "SystemTime::now",
    "Instant::now",
    "tokio::spawn",
    "task::spawn_blocking",
    "thread::spawn",
    "rand::rng(",
    "rand::random",
    "thread_rng",
    "OsRng",
    "getrandom::",
    "tokio::time::sleep",
];

/// Crates outside the simulated world: the seam itself and the tools.
const AMBIENT_ALLOWED: [&str; 4] = ["runtime", "sim", "testkit", "xtask"];

/// (file, call, why it stays).
const AMBIENT_EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "crates/raft/src/lease.rs",
    "Instant::now",
    "it compares our clock with the one openraft's leases use, tokio's, which a simulation steers too",
)];

/// The rules that the files break.
pub(crate) fn check(files: &[TextFile]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        if file.is("rs") {
            header(file, &mut broken);
            drawer(file, &mut broken);
            ambient(file, &mut broken);
        }
        if !file.is("md") {
            promises(file, &mut broken);
        }
    }
    broken
}

/// Every file begins by saying what it is.
fn header(file: &TextFile, broken: &mut Vec<String>) {
    let first = file
        .text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if !first.starts_with("//!") || first.trim_start_matches("//!").trim().len() < 10 {
        broken.push(format!(
            "{}: begins without a `//!` that says what it is",
            file.path
        ));
    }
}

fn drawer(file: &TextFile, broken: &mut Vec<String>) {
    let stem = file.path.trim_end_matches(".rs");
    if stem.split('/').skip(1).any(|part| DRAWERS.contains(&part)) {
        broken.push(format!("{}: a module named so becomes a drawer", file.path));
    }
    for (number, line) in file.text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "mod")
            && words
                .get(at + 1)
                .is_some_and(|n| DRAWERS.contains(&n.trim_end_matches([';', '{'])))
            && !line.trim_start().starts_with("//")
        {
            broken.push(format!(
                "{}:{}: a module named so becomes a drawer",
                file.path,
                number + 1
            ));
        }
    }
}

fn ambient(file: &TextFile, broken: &mut Vec<String>) {
    let outside = file
        .crate_name()
        .is_none_or(|name| AMBIENT_ALLOWED.contains(&name));
    if outside || file.is_test_code() {
        return;
    }
    for (number, line) in file.production_lines() {
        let code = line.split("//").next().unwrap_or_default();
        let excepted = |call: &str| {
            AMBIENT_EXCEPTIONS
                .iter()
                .any(|(path, c, _)| *path == file.path && *c == call)
        };
        for call in AMBIENT
            .iter()
            .filter(|call| code.contains(**call) && !excepted(call))
        {
            broken.push(format!(
                "{}:{number}: {call} belongs to the runtime crate",
                file.path
            ));
        }
    }
}

/// Work that is only promised has no place in the repository.
fn promises(file: &TextFile, broken: &mut Vec<String>) {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
    ];
    for (number, line) in file.text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric());
        for word in words.filter(|word| marks.iter().any(|mark| mark == word)) {
            broken.push(format!(
                "{}:{}: {word}: do it or leave it",
                file.path,
                number + 1
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> String {
        check(&[TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }])
        .join("\n")
    }

    #[test]
    fn each_rule_finds_its_offence_and_nothing_else() {
        let fine =
            "//! Says what it is.\nfn f() {}\n#[cfg(test)]\nmod tests {\n Instant::now();\n}\n";
        for (path, text, complaint) in [
            ("crates/blob/src/a.rs", fine, ""),
            ("crates/blob/src/a.rs", "fn f() {}\n", "begins without"),
            (
                "crates/blob/src/a.rs",
                "//! \nfn f() {}\n",
                "begins without",
            ),
            ("crates/blob/src/utils.rs", fine, "drawer"),
            ("crates/blob/src/misc/a.rs", fine, "drawer"),
            (
                "crates/blob/src/a.rs",
                "//! Says what it is.\npub mod helpers;\n",
                "drawer",
            ),
            (
                "crates/blob/src/a.rs",
                "//! Says what it is.\nlet t = Instant::now();\n",
                "a.rs:2: Instant::now",
            ),
            (
                "crates/blob/src/a.rs",
                "//! Says what it is.\n// not Instant::now\n",
                "",
            ),
            (
                "crates/runtime/src/a.rs",
                "//! Says what it is.\nlet t = Instant::now();\n",
                "",
            ),
            (
                "crates/blob/tests/a.rs",
                "//! Says what it is.\nlet t = Instant::now();\n",
                "",
            ),
            (
                "scripts/a.sh",
                concat!("# FIX", "ME later\n"),
                "do it or leave it",
            ),
            ("scripts/a.sh", "mktemp /tmp/aXXXXXX\n", ""),
        ] {
            let found = complaints(path, text);
            assert_eq!(
                found.is_empty(),
                complaint.is_empty(),
                "{path} {text:?}: {found}"
            );
            assert!(found.contains(complaint), "{path}: {found}");
        }
    }
}
