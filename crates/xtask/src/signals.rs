//! Sizes past which a thing may want to be two. Printed, never failing: a number does not know better
//! than the person who looks.

use crate::tree::TextFile;

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const ARGUMENTS: usize = 6;
const TRAIT_METHODS: usize = 8;
const ERROR_VARIANTS: usize = 12;

/// One line per finding, in file order.
pub(crate) fn find(files: &[TextFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.is("rs") && !file.is_test_code())
    {
        let lines: Vec<&str> = file.production_lines().map(|(_, line)| line).collect();
        if lines.len() > FILE_LINES {
            found.push(format!("{}: {} lines", file.path, lines.len()));
        }
        for (at, line) in lines.iter().enumerate() {
            for note in item(&lines, at, line) {
                found.push(format!("{}:{}: {note}", file.path, at + 1));
            }
        }
    }
    found
}

/// What is notable about the item that begins at a line.
fn item(lines: &[&str], at: usize, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |keyword: &str| {
        let position = words.iter().position(|word| *word == keyword)?;
        let plain = words[..position].iter().all(|w| {
            w.starts_with("pub") || ["async", "const", "unsafe", "in", "crate)"].contains(w)
        });
        plain.then(|| words.get(position + 1).copied().unwrap_or_default())
    };
    let mut notes = Vec::new();
    if let Some(name) = after("fn") {
        let name = name.split(['(', '<']).next().unwrap_or_default();
        let length = block(lines, at).len();
        if length > FUNCTION_LINES {
            notes.push(format!("fn {name} has {length} lines"));
        }
        let arguments = arguments(&lines[at..]);
        if arguments > ARGUMENTS {
            notes.push(format!("fn {name} takes {arguments} arguments"));
        }
    }
    if let Some(name) = after("trait") {
        let methods = members(lines, at)
            .filter(|l| l.split_whitespace().any(|w| w == "fn"))
            .count();
        if methods > TRAIT_METHODS {
            notes.push(format!(
                "trait {} has {methods} methods",
                name.trim_end_matches([':', '{'])
            ));
        }
    }
    if let Some(name) = after("enum").filter(|name| name.contains("Error")) {
        let variants = members(lines, at)
            .filter(|l| l.trim_start().starts_with(char::is_uppercase))
            .count();
        if variants > ERROR_VARIANTS {
            notes.push(format!("enum {name} has {variants} variants"));
        }
    }
    notes
}

/// The lines of the item that begins at a line, down to the brace that closes it. rustfmt puts that
/// brace alone at the item's own indentation.
fn block<'a>(lines: &'a [&'a str], at: usize) -> &'a [&'a str] {
    let indent = lines[at].len() - lines[at].trim_start().len();
    let close = format!("{}}}", " ".repeat(indent));
    let end = lines[at..].iter().position(|line| {
        **line == close
            || (line.trim_end().ends_with(';') && line.len() - line.trim_start().len() == indent)
    });
    &lines[at..at + end.map_or(1, |end| end + 1)]
}

/// The lines one level inside the item.
fn members<'a>(lines: &'a [&'a str], at: usize) -> impl Iterator<Item = &'a str> {
    let indent = lines[at].len() - lines[at].trim_start().len() + 4;
    block(lines, at)
        .iter()
        .skip(1)
        .copied()
        .filter(move |line| line.len() - line.trim_start().len() == indent)
}

/// Arguments of the function whose signature begins at the first line, `self` left out.
fn arguments(lines: &[&str]) -> usize {
    let text: String = lines
        .iter()
        .take(30)
        .flat_map(|line| [*line, " "])
        .collect();
    let Some(open) = text.find('(') else { return 0 };
    let (mut depth, mut parts, mut part) = (0_i32, Vec::new(), String::new());
    for letter in text[open..].replace("->", "").chars() {
        match letter {
            '(' | '<' | '[' | '{' => depth += 1,
            ')' | '>' | ']' | '}' => depth -= 1,
            ',' if depth == 1 => parts.push(std::mem::take(&mut part)),
            _ => part.push(letter),
        }
        if depth == 0 {
            break;
        }
    }
    parts.push(part);
    let named = parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| !part.is_empty());
    named
        .filter(|part| !["self", "&self", "&mut self", "mut self"].contains(part))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_noticed_only_past_their_limits() {
        let body = |count: usize| "        x();\n".repeat(count);
        let long = format!(
            "impl A {{\n    pub(crate) async fn f(&self) {{\n{}    }}\n}}\n",
            body(71)
        );
        let short = format!("impl A {{\n    fn f(&self) {{\n{}    }}\n}}\n", body(60));
        let wide = "fn g(\n    a: Map<A, B>,\n    b: (u8, u8),\n    c: u8,\n    d: u8,\n    e: u8,\n    f: u8,\n    g: u8,\n) {\n}\n";
        let error = format!(
            "pub enum FooError {{\n{}}}\n",
            "    /// doc\n    Bar { a: u8 },\n".repeat(13)
        );
        let tall = format!("trait T {{\n{}}}\n", "    fn m(&self);\n".repeat(9));
        for (text, expected) in [
            (long.as_str(), "fn f has 73 lines"),
            (short.as_str(), ""),
            (wide, "fn g takes 7 arguments"),
            (error.as_str(), "enum FooError has 13 variants"),
            (tall.as_str(), "trait T has 9 methods"),
            (&"// line\n".repeat(501), "501 lines"),
        ] {
            let file = TextFile {
                path: "crates/a/src/a.rs".to_owned(),
                text: text.to_owned(),
            };
            let found = find(&[file]).join("\n");
            assert!(found.contains(expected), "{found:?} lacks {expected:?}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
        }
    }
}
