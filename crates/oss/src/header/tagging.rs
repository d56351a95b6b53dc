//! `x-oss-tagging`: `k=v&k2=v2`, percent-encoded, with the limits of an object's tag set.

use granary_types::limits;
use http::HeaderMap;

use super::object::text;
use crate::error::{OssError, ec};
use crate::escape;

const NAME: &str = "x-oss-tagging";

/// Reads the header; `None` when absent.
///
/// # Errors
/// InvalidArgument; see [`parse_tagging`].
pub fn tagging(headers: &HeaderMap) -> Result<Option<Vec<(String, String)>>, OssError> {
    text(headers, NAME)
        .map(|value| parse_tagging(&value))
        .transpose()
}

/// Reads the header's value, in its order.
///
/// # Errors
/// InvalidArgument for more than 10 tags, an empty, repeated or too long key, a too long value, or a
/// character that tags may not have.
pub fn parse_tagging(value: &str) -> Result<Vec<(String, String)>, OssError> {
    let invalid = |(message, ec): (String, &'static str)| {
        OssError::invalid_argument(message, NAME, value).ec(ec)
    };
    let format = |message: &str| invalid((message.to_owned(), ec::TAGS_FORMAT));
    let mut tags: Vec<(String, String)> = Vec::new();
    for pair in value.split('&').filter(|pair| !pair.is_empty()) {
        let (key, tag_value) = pair.split_once('=').unwrap_or((pair, ""));
        if tag_value.contains('=') {
            return Err(format("Each tag must be a key, or a key and a value."));
        }
        let decoded = |raw: &str| {
            String::from_utf8(escape::decode_query(raw))
                .map_err(|_| format("Tags must be encoded in UTF-8."))
        };
        tags.push((decoded(key)?, decoded(tag_value)?));
    }
    check_tags(&tags).map_err(invalid)?;
    Ok(tags)
}

/// Checks the tag set of an object; `argument` is what errors name.
///
/// # Errors
/// InvalidArgument, as for the header.
pub fn check_object_tags(
    tags: &[(String, String)],
    argument: &'static str,
) -> Result<(), OssError> {
    check_tags(tags).map_err(|(message, ec)| {
        let shown = format_tagging(tags);
        OssError::invalid_argument(message, argument, shown).ec(ec)
    })
}

/// What is wrong with the tags of an object, and its EC.
fn check_tags(tags: &[(String, String)]) -> Result<(), (String, &'static str)> {
    if tags.len() > limits::OBJECT_TAGS_MAX {
        let most = limits::OBJECT_TAGS_MAX;
        let message = format!("An object can have no more than {most} tags.");
        return Err((message, ec::OBJECT_TAGS_TOO_MANY));
    }
    for (n, (key, value)) in tags.iter().enumerate() {
        check(key, 1, limits::OBJECT_TAG_KEY_CHARS_MAX)
            .and_then(|()| check(value, 0, limits::OBJECT_TAG_VALUE_CHARS_MAX))
            .map_err(|reason| format!("The tag {key} is invalid: {reason}."))
            .map_err(|message| (message, ec::OBJECT_TAGS))?;
        if tags.iter().take(n).any(|(other, _)| other == key) {
            let message = format!("The tag {key} occurs more than once.");
            return Err((message, ec::OBJECT_TAGS));
        }
    }
    Ok(())
}

/// The header's value for a tag set.
pub fn format_tagging(tags: &[(String, String)]) -> String {
    let pairs: Vec<String> = tags
        .iter()
        .map(|(key, value)| {
            format!(
                "{}={}",
                escape::encode(key.as_bytes()),
                escape::encode(value.as_bytes())
            )
        })
        .collect();
    pairs.join("&")
}

fn check(text: &str, least: usize, most: usize) -> Result<(), &'static str> {
    let length = text.chars().count();
    if !(least..=most).contains(&length) {
        return Err("the length is out of range");
    }
    let legal = |c: char| c.is_alphanumeric() || " +-=._:/".contains(c);
    text.chars()
        .all(legal)
        .then_some(())
        .ok_or("a character is not allowed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_tags_and_their_limits() {
        let owned = |tags: &[(&str, &str)]| -> Vec<(String, String)> {
            tags.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        for (value, tags) in [
            ("a=1&b=2", owned(&[("a", "1"), ("b", "2")])),
            ("a", owned(&[("a", "")])),
            ("k%20a=v+b%2B", owned(&[("k a", "v b+")])),
            ("a=b%3Dc", owned(&[("a", "b=c")])),
        ] {
            assert_eq!(parse_tagging(value).unwrap(), tags, "{value}");
        }
        let many = |n: usize| {
            (0..n)
                .map(|i| format!("k{i}=v"))
                .collect::<Vec<_>>()
                .join("&")
        };
        assert_eq!(parse_tagging(&many(10)).unwrap().len(), 10);
        for bad in [
            many(11),
            "a=1&a=2".to_owned(),
            "=v".to_owned(),
            "aa=bb=cc".to_owned(),
            "a=%23".to_owned(),
            "a=%FF".to_owned(),
            format!("{}=v", "k".repeat(129)),
            format!("k={}", "v".repeat(257)),
        ] {
            assert!(parse_tagging(&bad).is_err(), "{bad}");
        }
        assert_eq!(tagging(&HeaderMap::new()).unwrap(), None);
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_read(
            tags in proptest::collection::btree_map("[a-zA-Z0-9 +=._:/-]{1,9}", "[a-z +]{0,9}", 1..10)
        ) {
            let tags: Vec<(String, String)> = tags.into_iter().collect();
            prop_assert_eq!(parse_tagging(&format_tagging(&tags)).unwrap(), tags);
        }
    }
}
