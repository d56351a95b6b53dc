//! Metadata that travels in headers: the user's own, the stored content headers, and the overrides a
//! reader may ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::limits::USER_META_BYTES_MAX;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::object::text;
use crate::error::OssError;
use crate::error_code::ErrorCode;
use crate::query::Query;

const USER_PREFIX: &str = "x-oss-meta-";

/// Collects `x-oss-meta-*`: names in lower case without the prefix, values as sent, sorted by name.
///
/// # Errors
/// InvalidArgument for a name with anything but letters, digits and `-`, or a value that is not UTF-8;
/// MetadataTooLarge when names and values together pass 8 KB.
pub fn user_metadata(headers: &HeaderMap) -> Result<Vec<(String, String)>, OssError> {
    let mut collected = Vec::new();
    for name in headers.keys() {
        let Some(suffix) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        let legal = suffix
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if suffix.is_empty() || !legal {
            return Err(OssError::invalid_argument(
                "The name of a user metadata header may only contain letters, digits and hyphens.",
                name.as_str(),
                suffix,
            ));
        }
        let mut joined = String::new();
        for value in headers.get_all(name) {
            let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
                OssError::invalid_argument(
                    "The value of a user metadata header must be encoded in UTF-8.",
                    name.as_str(),
                    String::from_utf8_lossy(value.as_bytes()),
                )
            })?;
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(value.trim());
        }
        collected.push((suffix.to_owned(), joined));
    }
    collected.sort_unstable();
    if user_metadata_size(&collected) > USER_META_BYTES_MAX {
        return Err(OssError::new(ErrorCode::MetadataTooLarge)
            .extra("MaxMetadataSize", USER_META_BYTES_MAX.to_string()));
    }
    Ok(collected)
}

/// Bytes that user metadata counts for: names with their prefix, and values.
pub fn user_metadata_size(metadata: &[(String, String)]) -> usize {
    metadata
        .iter()
        .map(|(name, value)| USER_PREFIX.len() + name.len() + value.len())
        .sum()
}

/// The content headers that are stored with an object and returned with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`.
    pub expires: Option<String>,
}

impl ContentHeaders {
    /// Reads them from an upload's headers.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        Self {
            content_type: text(headers, "content-type"),
            cache_control: text(headers, "cache-control"),
            content_disposition: text(headers, "content-disposition"),
            content_encoding: text(headers, "content-encoding"),
            content_language: text(headers, "content-language"),
            expires: text(headers, "expires"),
        }
    }

    /// The stored headers by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("content-type", &self.content_type),
            ("cache-control", &self.cache_control),
            ("content-disposition", &self.content_disposition),
            ("content-encoding", &self.content_encoding),
            ("content-language", &self.content_language),
            ("expires", &self.expires),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Bytes these headers take.
    pub fn size(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// Headers that a GET asks to be answered instead of the stored ones (`response-*` parameters).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseOverrides {
    overrides: Vec<(HeaderName, HeaderValue)>,
}

impl ResponseOverrides {
    /// Reads the parameters. Anonymous readers may not use them; the caller knows who asks.
    ///
    /// # Errors
    /// InvalidArgument for a value that no header can carry.
    pub fn from_query(query: &Query) -> Result<Self, OssError> {
        let mut overrides = Vec::new();
        for (parameter, header) in [
            ("response-content-type", http::header::CONTENT_TYPE),
            ("response-content-language", http::header::CONTENT_LANGUAGE),
            ("response-expires", http::header::EXPIRES),
            ("response-cache-control", http::header::CACHE_CONTROL),
            (
                "response-content-disposition",
                http::header::CONTENT_DISPOSITION,
            ),
            ("response-content-encoding", http::header::CONTENT_ENCODING),
        ] {
            if let Some(value) = query.get_non_empty(parameter) {
                let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                    OssError::invalid_argument(
                        format!("The value of {parameter} is not a legal header value."),
                        parameter,
                        value,
                    )
                })?;
                overrides.push((header, value));
            }
        }
        Ok(Self { overrides })
    }

    /// True when nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.overrides.is_empty()
    }

    /// Sets the headers of an answer.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.overrides {
            headers.insert(name, value.clone());
        }
    }
}

/// Reads `x-oss-persistent-headers: name:base64,name:base64`: arbitrary headers to store with an
/// object and to return with it.
///
/// # Errors
/// InvalidArgument for anything that is not such a list of legal header values.
pub fn persistent_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, OssError> {
    const NAME: &str = "x-oss-persistent-headers";
    let Some(value) = text(headers, NAME) else {
        return Ok(Vec::new());
    };
    let invalid = || {
        OssError::invalid_argument(
            "The value of x-oss-persistent-headers must be a list of name:base64(value).",
            NAME,
            value.as_str(),
        )
    };
    let mut collected = Vec::new();
    for pair in value
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (name, encoded) = pair.split_once(':').ok_or_else(invalid)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| invalid())?;
        HeaderValue::from_bytes(&decoded).map_err(|_| invalid())?;
        let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
        collected.push((name.as_str().to_owned(), decoded));
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                (HeaderName::try_from(*name).unwrap(), value)
            })
            .collect()
    }

    #[test]
    fn user_metadata_is_collected_and_limited() {
        let collected = user_metadata(&headers(&[
            ("x-oss-meta-B", " 中文 "),
            ("X-Oss-Meta-a-1", ""),
            ("x-oss-other", "x"),
        ]));
        let expected = [("a-1", ""), ("b", "中文")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(collected.unwrap(), expected);
        for (name, value, code) in [
            ("x-oss-meta-a_b", "v".to_owned(), ErrorCode::InvalidArgument),
            ("x-oss-meta-", "v".to_owned(), ErrorCode::InvalidArgument),
            (
                "x-oss-meta-a",
                "v".repeat(8192 - 11),
                ErrorCode::MetadataTooLarge,
            ),
        ] {
            let error = user_metadata(&headers(&[(name, &value)])).unwrap_err();
            assert_eq!(error.code(), code, "{name}");
        }
        assert!(user_metadata(&headers(&[("x-oss-meta-a", &"v".repeat(8192 - 12))])).is_ok());
    }

    #[test]
    fn content_headers_and_overrides() {
        let stored = ContentHeaders::from_headers(&headers(&[
            ("content-type", "text/plain"),
            ("expires", "never"),
            ("cache-control", ""),
        ]));
        let listed: Vec<_> = stored.iter().collect();
        assert_eq!(
            listed,
            [("content-type", "text/plain"), ("expires", "never")]
        );
        assert_eq!(stored.size(), "content-typetext/plainexpiresnever".len());

        let query = Query::parse(Some("response-content-type=a%2Fb&response-expires=")).unwrap();
        let mut answer = headers(&[("content-type", "x/y")]);
        ResponseOverrides::from_query(&query)
            .unwrap()
            .apply(&mut answer);
        assert_eq!(answer, headers(&[("content-type", "a/b")]));
        let split = Query::parse(Some("response-content-type=a%0d%0aX:y")).unwrap();
        assert!(ResponseOverrides::from_query(&split).is_err());
        assert!(
            ResponseOverrides::from_query(&Query::default())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn persistent_headers_are_read() {
        let read = persistent_headers(&headers(&[(
            "x-oss-persistent-headers",
            "K1:djE=, k2:djI=",
        )]));
        let expected = [("k1", "v1"), ("k2", "v2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(read.unwrap(), expected);
        for bad in ["k1", "k1:***", "k 1:djE=", "k:Cg=="] {
            assert!(
                persistent_headers(&headers(&[("x-oss-persistent-headers", bad)])).is_err(),
                "{bad}"
            );
        }
    }
}
