//! What went wrong with a request, and how often.

use std::collections::BTreeMap;
use std::error::Error;

use serde::Serialize;

/// Kinds that are told apart; a store may make up codes.
const KINDS_MAX: usize = 32;
/// Characters of a code and of a message that are kept.
const CODE_CHARS_MAX: usize = 64;
const MESSAGE_CHARS_MAX: usize = 240;

/// No connection could be made.
pub(crate) const UNREACHABLE: &str = "Unreachable";
/// The body of an answer was not read to its end.
pub(crate) const TOO_LONG: &str = "DocumentTooLong";
/// What kinds beyond the limit are counted as.
const OTHER: &str = "Other";

/// A request that failed: refused, cut off, or answered wrongly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The status, if there was an answer.
    pub(crate) status: Option<u16>,
    /// The store's code; one of ours if there was no answer, or a wrong one.
    pub(crate) code: String,
    /// In a sentence.
    pub(crate) message: String,
}

impl Failure {
    /// An answer that says no. `document` is its body, as far as it was read.
    pub(crate) fn refused(status: http::StatusCode, document: &str) -> Self {
        let reason = status.canonical_reason().unwrap_or("unknown status");
        let code = element(document, "Code").unwrap_or_else(|| reason.replace(' ', ""));
        let message = element(document, "Message").unwrap_or_else(|| reason.to_owned());
        Self {
            status: Some(status.as_u16()),
            code: shortened(&code, CODE_CHARS_MAX),
            message: shortened(&message, MESSAGE_CHARS_MAX),
        }
    }

    /// An answer that says yes and is not what it should be.
    pub(crate) fn wrong(status: http::StatusCode, code: &str, message: String) -> Self {
        Self {
            status: Some(status.as_u16()),
            code: code.to_owned(),
            message: shortened(&message, MESSAGE_CHARS_MAX),
        }
    }

    pub(crate) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::unanswered(UNREACHABLE, causes(error))
    }

    pub(crate) fn broken(error: &(dyn Error + 'static)) -> Self {
        Self::unanswered("ConnectionBroken", causes(error))
    }

    pub(crate) fn timeout(seconds: f64) -> Self {
        Self::unanswered(
            "Timeout",
            format!("nothing was sent or received for {seconds} s"),
        )
    }

    fn unanswered(code: &str, message: String) -> Self {
        Self {
            status: None,
            code: code.to_owned(),
            message: shortened(&message, MESSAGE_CHARS_MAX),
        }
    }

    /// Whether an answer was read to its end: refusals are, unless they are too long.
    pub(crate) fn was_read(&self) -> bool {
        self.status.is_some_and(|status| status >= 300) && self.code != TOO_LONG
    }

    /// Whether the store does not know what was asked for.
    pub(crate) fn is_not_implemented(&self) -> bool {
        matches!(self.status, Some(405 | 501)) || self.code == "NotImplemented"
    }

    /// Whether the same request may go well a little later.
    pub(crate) fn may_pass(&self) -> bool {
        self.status
            .is_none_or(|status| status >= 500 || status == 429)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The text of the first element of that name, without its markup.
pub(crate) fn element(document: &str, name: &str) -> Option<String> {
    let (_, after) = document.split_once(&format!("<{name}>"))?;
    text(after)
}

/// The texts of all elements of that name.
pub(crate) fn elements(document: &str, name: &str) -> Vec<String> {
    let tag = format!("<{name}>");
    document.split(&tag).skip(1).filter_map(text).collect()
}

/// What comes before the next tag.
fn text(after: &str) -> Option<String> {
    let (text, _) = after.split_once('<')?;
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(plain)
}

/// An error with its causes, each once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !said.ends_with(&text) {
            said = format!("{said}: {text}");
        }
        cause = next.source();
    }
    said
}

/// On one line, and not longer than that.
fn shortened(text: &str, chars_max: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(chars_max).map(plain).collect()
}

/// How often what went wrong, with one message of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    kinds: BTreeMap<(Option<u16>, String), (u64, String)>,
}

/// One kind, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FailureCount {
    pub(crate) status: Option<u16>,
    pub(crate) code: String,
    pub(crate) count: u64,
    /// The message of the first one.
    pub(crate) example: String,
}

impl Failures {
    pub(crate) fn add(&mut self, failure: Failure) {
        self.add_many((failure.status, failure.code), 1, failure.message);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, (count, example)) in &other.kinds {
            self.add_many(kind.clone(), *count, example.clone());
        }
    }

    fn add_many(&mut self, kind: (Option<u16>, String), count: u64, example: String) {
        let kind = match self.kinds.len() < KINDS_MAX || self.kinds.contains_key(&kind) {
            true => kind,
            false => (None, OTHER.to_owned()),
        };
        self.kinds.entry(kind).or_insert((0, example)).0 += count;
    }

    pub(crate) fn total(&self) -> u64 {
        self.kinds.values().map(|(count, _)| count).sum()
    }

    /// The most frequent first.
    pub(crate) fn counts(&self) -> Vec<FailureCount> {
        let mut counts: Vec<_> = self
            .kinds
            .iter()
            .map(|((status, code), (count, example))| FailureCount {
                status: *status,
                code: code.clone(),
                count: *count,
                example: example.clone(),
            })
            .collect();
        counts.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        counts
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_refusal_says_what_the_store_said() {
        let document = "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code>\
                        <Message>a &lt;b&gt; &amp;amp; c\n</Message></Error>";
        for (document, code, message) in [
            (document, "NoSuchBucket", "a <b> &amp; c"),
            ("", "NotFound", "Not Found"),
            ("<Code>Half", "NotFound", "Not Found"),
        ] {
            let failure = Failure::refused(StatusCode::NOT_FOUND, document);
            assert_eq!(
                (failure.code.as_str(), failure.message.as_str()),
                (code, message)
            );
            assert_eq!(failure.to_string(), format!("404 {code}: {message}"));
            assert!(!failure.may_pass());
        }
        let unknown = "<Code>NotImplemented</Code>";
        for (status, document, is_not_implemented) in [
            (StatusCode::NOT_IMPLEMENTED, "", true),
            (StatusCode::METHOD_NOT_ALLOWED, "", true),
            (StatusCode::BAD_REQUEST, unknown, true),
            (StatusCode::FORBIDDEN, document, false),
            (StatusCode::SERVICE_UNAVAILABLE, "", false),
        ] {
            let failure = Failure::refused(status, document);
            assert_eq!(failure.is_not_implemented(), is_not_implemented, "{status}");
        }
        assert!(!Failure::timeout(1.0).is_not_implemented());
        assert!(Failure::refused(StatusCode::SERVICE_UNAVAILABLE, "").may_pass());
        assert!(Failure::timeout(1.0).may_pass());
    }

    #[test]
    fn failures_are_counted_by_status_and_code_and_bounded() {
        let mut failures = Failures::default();
        for number in 0..100 {
            let document = format!("<Code>C{number}</Code><Message>m</Message>");
            failures.add(Failure::refused(StatusCode::BAD_REQUEST, &document));
        }
        let mut more = Failures::default();
        more.add(Failure::refused(StatusCode::BAD_REQUEST, "<Code>C7</Code>"));
        failures.merge(&more);
        let counts = failures.counts();
        assert_eq!((counts.len(), failures.total()), (KINDS_MAX + 1, 101));
        assert_eq!((counts[0].code.as_str(), counts[0].count), (OTHER, 68));
        assert_eq!((counts[1].code.as_str(), counts[1].count), ("C7", 2));
        assert_eq!(
            (counts[1].status, counts[1].example.as_str()),
            (Some(400), "m")
        );
    }
}
