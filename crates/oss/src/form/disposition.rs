//! `Content-Disposition` of a part and the parameters of `Content-Type`.
//!
//! Browsers put names in quotation marks, in UTF-8, and write `%22` for a mark in them, which is kept
//! as it is; older clients write `\"`. HTTP libraries of other languages use the form of RFC 5987
//! (`filename*=UTF-8''…`), which wins.

use crate::escape;

/// What a part says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    /// The field's name.
    pub(super) name: String,
    /// The name of the file at the client, perhaps with a path.
    pub(super) filename: Option<String>,
}

/// Reads `form-data; name="…"; filename="…"`; `None` when it is something else.
pub(super) fn parse(value: &[u8]) -> Option<Disposition> {
    let (kind, parameters) = with_parameters(value)?;
    if !kind.eq_ignore_ascii_case(b"form-data") {
        return None;
    }
    let name = named(&parameters, "name")?;
    let filename = named(&parameters, "filename")?;
    Some(Disposition {
        name: name.filter(|name| !name.is_empty())?,
        filename,
    })
}

/// Whether a `Content-Type` is `multipart/form-data`, whatever its parameters are.
pub(super) fn is_form(content_type: &[u8]) -> bool {
    let kind = content_type.split(|&byte| byte == b';').next();
    kind.is_some_and(|kind| {
        kind.trim_ascii()
            .eq_ignore_ascii_case(b"multipart/form-data")
    })
}

/// The boundary of a `multipart/form-data`; `None` when it has no legal one.
pub(super) fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let (_, parameters) = with_parameters(content_type)?;
    let (_, boundary) = parameters
        .into_iter()
        .find(|(name, _)| name == "boundary")?;
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
    let fits = (1..=granary_types::limits::FORM_BOUNDARY_BYTES_MAX).contains(&boundary.len());
    (fits && boundary.iter().all(legal) && !boundary.ends_with(b" ")).then_some(boundary)
}

type Parameters = Vec<(String, Vec<u8>)>;

/// A parameter in either form; the outer `None` is a value that cannot be read.
fn named(parameters: &Parameters, name: &str) -> Option<Option<String>> {
    let find = |name: &str| {
        let found = parameters.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_slice())
    };
    if let Some(value) = find(&format!("{name}*")) {
        return extended(value).map(Some);
    }
    match find(name) {
        Some(value) => String::from_utf8(value.to_vec()).ok().map(Some),
        None => Some(None),
    }
}

/// `UTF-8'language'percent-encoded`.
fn extended(value: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, '\'');
    let (charset, _, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    String::from_utf8(escape::decode(encoded)?).ok()
}

/// `kind; name=value; name="value"`. A parameter that comes twice makes the whole unreadable: two
/// readers would take different ones.
fn with_parameters(text: &[u8]) -> Option<(&[u8], Parameters)> {
    let end = text.iter().position(|b| *b == b';').unwrap_or(text.len());
    let (kind, mut rest) = text.split_at(end);
    let mut parameters = Parameters::new();
    while let Some(after) = rest.strip_prefix(b";") {
        rest = after.trim_ascii_start();
        if rest.is_empty() || rest.starts_with(b";") {
            continue;
        }
        let equals = rest.iter().position(|b| *b == b'=')?;
        let (name, after) = (rest.get(..equals)?.trim_ascii(), rest.get(equals + 1..)?);
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) {
            return None;
        }
        let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
        let after = after.trim_ascii_start();
        let value;
        (value, rest) = match after.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.iter().position(|b| *b == b';').unwrap_or(after.len());
                let (value, rest) = after.split_at(end);
                (value.trim_ascii().to_vec(), rest)
            }
        };
        if parameters.iter().any(|(other, _)| *other == name) {
            return None;
        }
        parameters.push((name, value));
    }
    rest.is_empty().then_some((kind.trim_ascii(), parameters))
}

/// The text up to the closing mark, and what follows it. A backslash escapes a mark or itself; before
/// anything else it is one, as in the paths that old browsers send.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match (byte, after.first()) {
            (b'"', _) => return Some((value, rest.trim_ascii_start())),
            (b'\\', Some(&escaped @ (b'"' | b'\\'))) => {
                value.push(escaped);
                rest = after.get(1..)?;
            }
            _ => value.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_clients_write_them() {
        for (value, name, filename) in [
            (r#"form-data; name="key""#, "key", None),
            (r#"Form-Data;name=key;"#, "key", None),
            (
                r#"form-data; name="file"; filename="a b.txt""#,
                "file",
                Some("a b.txt"),
            ),
            (
                r#"form-data; name="file"; filename="中文.png""#,
                "file",
                Some("中文.png"),
            ),
            (
                r#"form-data; name="file"; filename="a\"b\\c""#,
                "file",
                Some("a\"b\\c"),
            ),
            (
                r#"form-data; name="file"; filename="C:\dir\x""#,
                "file",
                Some(r"C:\dir\x"),
            ),
            (
                r#"form-data; name="a;b"; filename="x%22y""#,
                "a;b",
                Some("x%22y"),
            ),
            (
                "form-data; name=\"file\"; filename=\"x\"; filename*=utf-8''%E4%B8%AD",
                "file",
                Some("中"),
            ),
            (r#"form-data; filename=""; name="f""#, "f", Some("")),
        ] {
            let read = parse(value.as_bytes()).unwrap_or_else(|| panic!("{value}"));
            assert_eq!(
                (read.name.as_str(), read.filename.as_deref()),
                (name, filename),
                "{value}"
            );
        }
    }

    #[test]
    fn what_has_no_name_or_two_is_not_read() {
        for value in [
            "",
            "form-data",
            "form-data; name=\"\"",
            "attachment; name=\"a\"",
            "form-data; name=\"a",
            "form-data; name=\"a\" b",
            "form-data; name=a; name=b",
            "form-data; na me=a",
            "form-data; name=a; filename*=latin1''x",
            "form-data; name=a; filename*=utf-8''%f",
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse(b"form-data; name=\"\xff\""), None);
    }

    #[test]
    fn boundaries_keep_to_rfc_2046() {
        for other in ["multipart/mixed; boundary=abc", "text/plain", ""] {
            assert!(!is_form(other.as_bytes()), "{other}");
        }
        let longest = format!("multipart/form-data; boundary={}", "b".repeat(70));
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (
                "Multipart/Form-Data; charset=utf-8; Boundary=\"a b:c\"",
                Some("a b:c"),
            ),
            (longest.as_str(), Some("b".repeat(70).leak() as &str)),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"a \"", None),
            ("multipart/form-data; boundary=a*b", None),
        ] {
            let read = boundary(content_type.as_bytes());
            assert_eq!(
                read.as_deref(),
                expected.map(str::as_bytes),
                "{content_type}"
            );
            assert!(is_form(content_type.as_bytes()), "{content_type}");
        }
        let too_long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        assert_eq!(boundary(too_long.as_bytes()), None);
    }
}
