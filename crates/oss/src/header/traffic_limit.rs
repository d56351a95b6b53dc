//! `x-oss-traffic-limit`: how fast one request may move its bytes.

use http::HeaderMap;

use crate::error::OssError;
use crate::query::Query;

/// The header, and the parameter of URLs.
const NAME: &str = "x-oss-traffic-limit";
/// Slowest limit, in bits per second.
pub const TRAFFIC_LIMIT_MIN: u64 = 245_760;
/// Fastest limit, in bits per second.
pub const TRAFFIC_LIMIT_MAX: u64 = 838_860_800;

/// The limit that a request sets for itself in bits per second; the header wins over the
/// parameter.
///
/// # Errors
/// InvalidArgument when it is not a number in the allowed range.
pub fn traffic_limit(headers: &HeaderMap, query: &Query) -> Result<Option<u64>, OssError> {
    let header = headers
        .get(NAME)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let Some(value) = header.or_else(|| query.get(NAME).map(Into::into)) else {
        return Ok(None);
    };
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let limit = value.parse().ok().filter(|_| digits);
    match limit {
        Some(limit) if (TRAFFIC_LIMIT_MIN..=TRAFFIC_LIMIT_MAX).contains(&limit) => Ok(Some(limit)),
        _ => Err(OssError::invalid_argument(
            format!(
                "The value of {NAME} must be a number from {TRAFFIC_LIMIT_MIN} to {TRAFFIC_LIMIT_MAX}."
            ),
            NAME,
            value,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;

    #[test]
    fn limits_have_a_range() {
        let read = |header: Option<&str>, query: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert(NAME, value.parse().unwrap());
            }
            traffic_limit(&headers, &Query::parse(query).unwrap())
        };
        assert_eq!(read(None, Some("a=b")).unwrap(), None);
        for (header, query, limit) in [
            (Some("245760"), None, 245_760),
            (None, Some("x-oss-traffic-limit=838860800"), 838_860_800),
            (Some("819200"), Some("x-oss-traffic-limit=1"), 819_200),
        ] {
            assert_eq!(read(header, query).unwrap(), Some(limit));
        }
        for bad in [
            "",
            "245759",
            "838860801",
            "-819200",
            "+819200",
            "1e6",
            "99999999999999999999",
        ] {
            let error = read(Some(bad), None).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{bad}");
            assert_eq!(error.extra_value("ArgumentName"), Some(NAME), "{bad}");
            let query = format!("{NAME}={}", bad.replace('+', "%2B"));
            assert!(read(None, Some(&query)).is_err(), "{bad}");
        }
    }
}
