//! Headers that cannot be read. They are refused as a whole, so that the code that reads a header may
//! take one that is not text, or has two values, for absent.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::error::OssError;
use crate::error_code::ErrorCode;

/// Headers that are read besides the service's own and may have one value only.
const SINGLE: [HeaderName; 3] = [
    header::RANGE,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];
/// Headers that are read and may come in several lines.
const LISTS: [HeaderName; 8] = [
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::EXPIRES,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
];
const CONTENT_MD5: &str = "content-md5";
const NOT_UTF8: &str = "The value of a header must be encoded in UTF-8.";
const CONTRADICTION: &str = "The header has two different values.";

/// Checks every header that an operation may read; user metadata is checked where it is read.
///
/// # Errors
/// InvalidArgument for a value that is not UTF-8 and for two different values where one is meant;
/// InvalidDigest for such a `Content-MD5`.
pub fn check_readable(headers: &HeaderMap) -> Result<(), OssError> {
    for name in headers.keys() {
        let text = name.as_str();
        let own = text.starts_with("x-oss-") && !text.starts_with("x-oss-meta-");
        let single = own || text == CONTENT_MD5 || SINGLE.contains(name);
        if !single && !LISTS.contains(name) {
            continue;
        }
        let first = headers.get(name);
        for value in headers.get_all(name) {
            if std::str::from_utf8(value.as_bytes()).is_err() {
                return Err(refused(name, value, NOT_UTF8));
            }
            if single && Some(value) != first {
                return Err(refused(name, value, CONTRADICTION));
            }
        }
    }
    Ok(())
}

fn refused(name: &HeaderName, value: &HeaderValue, why: &'static str) -> OssError {
    let value = String::from_utf8_lossy(value.as_bytes());
    if name.as_str() == CONTENT_MD5 {
        return OssError::new(ErrorCode::InvalidDigest).extra("Content-MD5", value);
    }
    OssError::invalid_argument(why, name.as_str(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of headers whose values are written in Latin-1.
    fn check(lines: &[(&'static str, &str)]) -> Option<ErrorCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let bytes: Vec<u8> = value.chars().map(|char| char as u8).collect();
            headers.append(*name, HeaderValue::from_bytes(&bytes).unwrap());
        }
        check_readable(&headers).err().map(|error| error.code())
    }

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        use ErrorCode::{InvalidArgument, InvalidDigest};
        let overwrite = "x-oss-forbid-overwrite";
        for (lines, refused) in [
            (&[][..], None),
            // The two bytes of an é in UTF-8, and its one byte in Latin-1.
            (&[(overwrite, "tru\u{c3}\u{a9}")], None),
            (&[(overwrite, "tru\u{e9}")], Some(InvalidArgument)),
            (
                &[(overwrite, "true"), (overwrite, "tru\u{e9}")],
                Some(InvalidArgument),
            ),
            (
                &[(overwrite, "true"), (overwrite, "false")],
                Some(InvalidArgument),
            ),
            (&[(overwrite, "true"), (overwrite, "true")], None),
            (&[("content-md5", "\u{e9}")], Some(InvalidDigest)),
            (
                &[("content-md5", "a"), ("content-md5", "b")],
                Some(InvalidDigest),
            ),
            (&[("if-match", "\u{e9}")], Some(InvalidArgument)),
            (&[("if-match", "\"a\""), ("if-match", "\"b\"")], None),
            (&[("content-disposition", "\u{e9}")], Some(InvalidArgument)),
            // Nobody reads these.
            (&[("user-agent", "\u{e9}"), ("referer", "\u{e9}")], None),
        ] {
            assert_eq!(check(lines), refused, "{lines:?}");
        }
    }
}
