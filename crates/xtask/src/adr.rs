//! Decision records are numbered without gaps and listed in their index, so that none is lost.

use crate::tree::TextFile;

const INDEX: &str = "docs/adr/README.md";

/// What is wrong with docs/adr.
pub(crate) fn check(files: &[TextFile]) -> Vec<String> {
    let mut broken = Vec::new();
    let index = files.iter().find(|file| file.path == INDEX);
    let records = files.iter().filter_map(|file| {
        let name = file.path.strip_prefix("docs/adr/")?;
        (name != "README.md").then_some(name)
    });
    for (at, name) in records.enumerate() {
        let expected = format!("{:04}-", at + 1);
        if !name.starts_with(&expected) || !name.ends_with(".md") {
            broken.push(format!(
                "docs/adr/{name}: the next record is {expected}….md"
            ));
        }
        if !index.is_some_and(|index| index.text.contains(&format!("({name})"))) {
            broken.push(format!("docs/adr/{name}: not listed in {INDEX}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_and_every_record_is_listed() {
        let file = |path: &str, text: &str| TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let index = file(INDEX, "- [a](0001-a.md)\n- [b](0002-b.md)\n");
        let fine = [
            file("docs/adr/0001-a.md", ""),
            file("docs/adr/0002-b.md", ""),
            index,
        ];
        assert_eq!(check(&fine), Vec::<String>::new());
        assert_eq!(check(&fine[..2]).len(), 2);
        let gap = [
            file("docs/adr/0002-b.md", ""),
            file(INDEX, "[b](0002-b.md)"),
        ];
        assert!(check(&gap)[0].contains("the next record is 0001-"));
    }
}
