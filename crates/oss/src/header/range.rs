//! `Range` as OSS means it, which is not quite as HTTP means it.
//!
//! By default anything that does not lie wholly inside the object is ignored and the whole object
//! is the answer; with `x-oss-range-behavior: standard` ranges are cut to the object and refused when
//! they begin after it. `bytes=-0` is refused either way. Only one range is ever served.

use granary_types::ByteRange;
use http::HeaderMap;

/// What a `Range` header means for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// 200 with everything and no `Content-Range`.
    Whole,
    /// 206 with these bytes.
    Partial(ByteRange),
    /// 416 InvalidRange.
    Unsatisfiable,
}

/// Whether the request asks for standard range behaviour.
pub fn uses_standard_range(headers: &HeaderMap) -> bool {
    headers.get("x-oss-range-behavior").is_some_and(|value| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"standard")
    })
}

/// Resolves the value of a `Range` header against an object of `size` bytes.
pub fn resolve_range(value: &str, size: u64, standard: bool) -> RangeOutcome {
    let Some((first, last)) = parse(value) else {
        return RangeOutcome::Whole;
    };
    match (first, last) {
        (None, Some(0)) => RangeOutcome::Unsatisfiable,
        (None, Some(length)) if length <= size => partial(size - length, size),
        (None, Some(_)) if standard && size > 0 => partial(0, size),
        (Some(first), Some(last)) if last < first => RangeOutcome::Whole,
        (Some(first), _) if first >= size => out_of_object(standard),
        (Some(first), None) => partial(first, size),
        (Some(first), Some(last)) if last < size => partial(first, last + 1),
        (Some(first), Some(_)) if standard => partial(first, size),
        (None, Some(_)) => out_of_object(standard),
        _ => RangeOutcome::Whole,
    }
}

fn partial(start: u64, end: u64) -> RangeOutcome {
    RangeOutcome::Partial(ByteRange { start, end })
}

fn out_of_object(standard: bool) -> RangeOutcome {
    if standard {
        RangeOutcome::Unsatisfiable
    } else {
        RangeOutcome::Whole
    }
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n`; `None` for anything else, several ranges included.
fn parse(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = value.trim().split_once('=')?;
    if !unit.trim_end().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (position(first)?, position(last)?);
    (first.is_some() || last.is_some()).then_some((first, last))
}

/// A number, nothing (`Some(None)`), or what is neither (`None`). Numbers too large for any object
/// stay too large.
fn position(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_service_in_both_behaviours() {
        use RangeOutcome::{Unsatisfiable, Whole};
        let p = partial;
        for (value, size, default, standard) in [
            ("bytes=0-9", 10, p(0, 10), p(0, 10)),
            ("bytes=0-0", 10, p(0, 1), p(0, 1)),
            ("bytes=3-", 10, p(3, 10), p(3, 10)),
            ("bytes=-4", 10, p(6, 10), p(6, 10)),
            ("Bytes = 2-3", 10, p(2, 4), p(2, 4)),
            ("bytes=-10", 10, p(0, 10), p(0, 10)),
            ("bytes=5-10", 10, Whole, p(5, 10)),
            ("bytes=5-99999999999999999999999", 10, Whole, p(5, 10)),
            ("bytes=10-", 10, Whole, Unsatisfiable),
            ("bytes=10-20", 10, Whole, Unsatisfiable),
            ("bytes=-11", 10, Whole, p(0, 10)),
            ("bytes=-0", 10, Unsatisfiable, Unsatisfiable),
            ("bytes=9-3", 10, Whole, Whole),
            ("bytes=0-1,3-4", 10, Whole, Whole),
            ("bytes=-", 10, Whole, Whole),
            ("bytes=a-b", 10, Whole, Whole),
            ("bytes=+1-2", 10, Whole, Whole),
            ("lines=1-2", 10, Whole, Whole),
            ("0-1", 10, Whole, Whole),
            ("", 10, Whole, Whole),
            ("bytes=0-", 0, Whole, Unsatisfiable),
            ("bytes=-1", 0, Whole, Unsatisfiable),
            ("bytes=0-18446744073709551615", 10, Whole, p(0, 10)),
        ] {
            assert_eq!(
                resolve_range(value, size, false),
                default,
                "default {value}"
            );
            assert_eq!(
                resolve_range(value, size, true),
                standard,
                "standard {value}"
            );
        }
    }

    #[test]
    fn the_behaviour_header_is_read() {
        let mut headers = HeaderMap::new();
        assert!(!uses_standard_range(&headers));
        headers.insert("x-oss-range-behavior", "Standard".parse().unwrap());
        assert!(uses_standard_range(&headers));
    }
}
