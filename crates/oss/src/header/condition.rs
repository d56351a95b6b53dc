//! Conditional requests: `If-*` on reads and `x-oss-copy-source-if-*` on copies.
//!
//! Evaluated as RFC 9110 §13.2.2 orders it: tags before dates, a date is ignored when the tag header of
//! its kind is there. A date that cannot be read is no condition; nothing has changed after one in the
//! future. Times compare in whole seconds, since that is all a client has seen.

use granary_types::{ETag, Timestamp};
use http::HeaderMap;

use super::date::parse_http_date;
use super::object::text;

/// The tags of an `If-Match` or `If-None-Match` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtagList {
    /// `*`: any object.
    Any,
    /// These tags.
    Tags(Vec<ETag>),
}

impl EtagList {
    /// Reads `*`, or tags with or without quotes separated by commas; `W/` is dropped, since every tag
    /// of the service is strong and clients mean the same object.
    pub fn parse(value: &str) -> Self {
        if value.trim() == "*" {
            return Self::Any;
        }
        let tags = value
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty());
        Self::Tags(
            tags.map(|tag| ETag::parse(tag.strip_prefix("W/").unwrap_or(tag)))
                .collect(),
        )
    }

    fn contains(&self, etag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.matches(etag)),
        }
    }
}

/// The conditions of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The object's tag must be one of these.
    pub if_match: Option<EtagList>,
    /// The object's tag must be none of these.
    pub if_none_match: Option<EtagList>,
    /// The object must have changed after this time.
    pub if_modified_since: Option<Timestamp>,
    /// The object must not have changed after this time.
    pub if_unmodified_since: Option<Timestamp>,
}

/// What the conditions say about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// 304 NotModified.
    NotModified,
    /// 412 PreconditionFailed.
    Failed,
}

impl Preconditions {
    /// The conditions of a read.
    pub fn of_read(headers: &HeaderMap) -> Self {
        Self::read(
            headers,
            [
                "if-match",
                "if-none-match",
                "if-modified-since",
                "if-unmodified-since",
            ],
        )
    }

    /// The conditions of a copy on its source.
    pub fn of_copy_source(headers: &HeaderMap) -> Self {
        Self::read(
            headers,
            [
                "x-oss-copy-source-if-match",
                "x-oss-copy-source-if-none-match",
                "x-oss-copy-source-if-modified-since",
                "x-oss-copy-source-if-unmodified-since",
            ],
        )
    }

    fn read(headers: &HeaderMap, names: [&str; 4]) -> Self {
        let [matching, none_matching, modified, unmodified] = names;
        let tags = |name| lines(headers, name).map(|value| EtagList::parse(&value));
        let date = |name| text(headers, name).and_then(|value| parse_http_date(&value));
        Self {
            if_match: tags(matching),
            if_none_match: tags(none_matching),
            if_modified_since: date(modified),
            if_unmodified_since: date(unmodified),
        }
    }

    /// True when there is no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Judges an object by its tag and the time of its last change.
    pub fn evaluate(&self, etag: &ETag, last_modified: Timestamp) -> Verdict {
        let changed_after = |time: &Timestamp| last_modified.as_secs() > time.as_secs();
        let holds = match (&self.if_match, &self.if_unmodified_since) {
            (Some(tags), _) => tags.contains(etag),
            (None, Some(time)) => !changed_after(time),
            (None, None) => true,
        };
        if !holds {
            return Verdict::Failed;
        }
        let is_new = match (&self.if_none_match, &self.if_modified_since) {
            (Some(tags), _) => !tags.contains(etag),
            (None, Some(time)) => changed_after(time),
            (None, None) => true,
        };
        if is_new {
            Verdict::Proceed
        } else {
            Verdict::NotModified
        }
    }
}

/// The lines of a list as one (RFC 9110 §5.3); `None` when there is no value.
fn lines(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(name).iter();
    let values = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let values: Vec<_> = values
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: &str = "Wed, 28 Dec 2022 10:27:40 GMT";
    const THEN: &str = "Wed, 28 Dec 2022 10:27:41 GMT";

    #[test]
    fn judges_as_http_and_the_service_do() {
        use Verdict::{Failed, NotModified, Proceed};
        let etag = ETag::parse("ABC");
        let modified = Timestamp(1_672_223_261_789);
        let cases: &[(&[(&str, &str)], Verdict)] = &[
            (&[], Proceed),
            (&[("if-match", "\"ABC\"")], Proceed),
            (&[("if-match", "abc")], Proceed),
            (&[("if-match", "\"X\", W/\"ABC\"")], Proceed),
            (&[("if-match", "\"X\""), ("if-match", "\"ABC\"")], Proceed),
            (
                &[("if-none-match", "\"X\""), ("if-none-match", "\"ABC\"")],
                NotModified,
            ),
            (&[("if-match", "*")], Proceed),
            (&[("if-match", "\"X\"")], Failed),
            (&[("if-none-match", "\"ABC\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"X\"")], Proceed),
            (&[("if-modified-since", THEN)], NotModified),
            (&[("if-modified-since", EARLIER)], Proceed),
            (&[("if-modified-since", "never")], Proceed),
            (
                &[("if-modified-since", "Mon, 28 Dec 2122 10:27:41 GMT")],
                NotModified,
            ),
            (&[("if-unmodified-since", THEN)], Proceed),
            (&[("if-unmodified-since", EARLIER)], Failed),
            // Tags beat dates.
            (
                &[("if-none-match", "\"X\""), ("if-modified-since", THEN)],
                Proceed,
            ),
            (
                &[("if-match", "ABC"), ("if-unmodified-since", EARLIER)],
                Proceed,
            ),
            // 412 beats 304.
            (&[("if-match", "X"), ("if-none-match", "ABC")], Failed),
        ];
        for (headers, verdict) in cases {
            let map = |prefix: &str| -> HeaderMap {
                headers
                    .iter()
                    .map(|(name, value)| {
                        let name = format!("{prefix}{name}");
                        (
                            http::HeaderName::try_from(name).unwrap(),
                            value.parse().unwrap(),
                        )
                    })
                    .collect()
            };
            let read = Preconditions::of_read(&map(""));
            assert_eq!(read.evaluate(&etag, modified), *verdict, "{headers:?}");
            let copy = Preconditions::of_copy_source(&map("x-oss-copy-source-"));
            assert_eq!(copy.evaluate(&etag, modified), *verdict, "{headers:?}");
        }
        assert!(Preconditions::of_read(&HeaderMap::new()).is_empty());
    }
}
