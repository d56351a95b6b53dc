//! Relative links in Markdown lead somewhere: to a file of the tree and, with `#`, to a heading in it.

use std::collections::BTreeSet;

use crate::tree::TextFile;

/// The links that lead nowhere.
pub(crate) fn check(files: &[TextFile]) -> Vec<String> {
    let mut places: BTreeSet<String> = BTreeSet::new();
    for file in files {
        let mut path = file.path.as_str();
        places.insert(path.to_owned());
        while let Some((directory, _)) = path.rsplit_once('/') {
            places.insert(directory.to_owned());
            path = directory;
        }
    }
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| file.is("md")) {
        for (number, target) in targets(&file.text) {
            if let Some(why) = follow(files, &places, file, target) {
                broken.push(format!("{}:{number}: link to {target}: {why}", file.path));
            }
        }
    }
    broken
}

/// (line, target) of every inline link outside code.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for piece in line.split("](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                found.push((
                    number + 1,
                    target.split_whitespace().next().unwrap_or_default(),
                ));
            }
        }
    }
    found
}

fn follow(
    files: &[TextFile],
    places: &BTreeSet<String>,
    from: &TextFile,
    target: &str,
) -> Option<&'static str> {
    let outside = ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme));
    if outside || target.is_empty() {
        return None;
    }
    let (path, anchor) = target
        .split_once('#')
        .map_or((target, None), |(p, a)| (p, Some(a)));
    let full = if path.is_empty() {
        from.path.clone()
    } else {
        resolve(&from.path, path)
    };
    // Files of kinds the tree does not read (pictures, dotfiles) are trusted when they have no anchor.
    let read_kind = full.ends_with(".md") || full.ends_with(".rs") || full.ends_with(".toml");
    if !places.contains(&full) {
        let looks_like_directory = !full.rsplit('/').next().unwrap_or_default().contains('.');
        return (read_kind
            || looks_like_directory
                && !full.is_empty()
                && full != "Makefile"
                && full != "LICENSE")
            .then_some("there is no such file");
    }
    let anchor = anchor?;
    let page = files
        .iter()
        .find(|file| file.path == full && file.is("md"))?;
    let headings = page
        .text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(slug);
    (!headings.into_iter().any(|heading| heading == anchor)).then_some("there is no such heading")
}

/// The path of `target` as seen from the file `from`.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The anchor a heading gets.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed() {
        let file = |path: &str, text: &str| TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        for (link, fine) in [
            ("a.md", true),
            ("../README.md", true),
            ("a.md#two-words-and-code", true),
            ("#own", true),
            ("adr/", true),
            ("https://example.com/x", true),
            ("b.md", false),
            ("../a.md", false),
            ("a.md#three", false),
            ("nowhere/", false),
        ] {
            let files = [
                file("README.md", ""),
                file("docs/a.md", "# Two words, and `code`\n"),
                file("docs/adr/0001-x.md", "# x\n"),
                file(
                    "docs/c.md",
                    &format!("# own\nsee [it]({link}).\n```\n[no](link-in-code.md)\n```\n"),
                ),
            ];
            assert_eq!(
                check(&files).is_empty(),
                fine,
                "{link}: {:?}",
                check(&files)
            );
        }
    }
}
