//! Host header and request path → bucket and key, by every addressing style that clients use.
//!
//! Invariant: a path is never normalised. `//`, `.`, `..` and `%2F` inside a key are bytes like any
//! others; `+` is a plus. Whether the bucket exists is not known here.

use std::net::Ipv4Addr;

use granary_types::{BucketName, ObjectKey, limits::OBJECT_KEY_BYTES_MAX};

use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;
use crate::escape;

/// The host names under which `BUCKET.DOMAIN` addresses a bucket. `localhost` is always one.
#[derive(Clone, Debug)]
pub struct Domains {
    /// Lower case, without port or trailing dot, longest first so that the most specific wins.
    suffixes: Vec<String>,
}

/// How a request named its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressStyle {
    /// `/bucket/key` on any host.
    Path,
    /// `/key` on `bucket.domain`.
    VirtualHost,
}

/// What a request addresses: the service (no bucket), a bucket (no key), or an object.
///
/// The parts are as the client spelled them, percent-decoded but not validated: signatures cover
/// this spelling, and the error for a bad name comes after that for a bad signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// How the bucket was named.
    pub style: AddressStyle,
    /// The bucket, not validated.
    pub bucket: Option<String>,
    /// The key's decoded bytes, not validated, never empty.
    pub key: Option<Vec<u8>>,
}

impl Domains {
    /// Takes the configured domains; case, a port and a trailing dot do not matter.
    pub fn new<S: AsRef<str>>(domains: impl IntoIterator<Item = S>) -> Self {
        let mut suffixes: Vec<String> = domains
            .into_iter()
            .map(|domain| host_name(domain.as_ref()))
            .filter(|domain| !domain.is_empty())
            .collect();
        suffixes.push("localhost".to_owned());
        suffixes.sort_by_key(|suffix| std::cmp::Reverse(suffix.len()));
        suffixes.dedup();
        Self { suffixes }
    }

    /// Resolves a request's `Host` (with or without port) and the raw path of its target.
    ///
    /// Path style: IP literals, a domain itself, no host at all, and every host that is not below a
    /// known domain, so that an installation works behind any name its operator gives it.
    ///
    /// # Errors
    /// InvalidURI for a path that does not start with `/` or has a malformed `%` escape.
    pub fn resolve(&self, host: Option<&str>, raw_path: &str) -> Result<Address, OssError> {
        let Some(rest) = raw_path.strip_prefix('/') else {
            return Err(invalid_uri(raw_path));
        };
        let decoded = |raw: &str| escape::decode(raw).ok_or_else(|| invalid_uri(raw_path));
        let key = |raw: &str| decoded(raw).map(|key| Some(key).filter(|key| !key.is_empty()));
        if let Some(bucket) = host.and_then(|host| self.bucket_of(&host_name(host))) {
            return Ok(Address {
                style: AddressStyle::VirtualHost,
                bucket: Some(bucket),
                key: key(rest)?,
            });
        }
        let (raw_bucket, raw_key) = rest.split_once('/').unwrap_or((rest, ""));
        // A bucket that is not UTF-8 is not valid either way; the lossy spelling says so later.
        let bucket = String::from_utf8_lossy(&decoded(raw_bucket)?).into_owned();
        if bucket.is_empty() && !raw_key.is_empty() {
            return Err(OssError::new(ErrorCode::InvalidBucketName).extra("BucketName", ""));
        }
        Ok(Address {
            style: AddressStyle::Path,
            bucket: Some(bucket).filter(|bucket| !bucket.is_empty()),
            key: key(raw_key)?,
        })
    }

    fn bucket_of(&self, host: &str) -> Option<String> {
        if host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok() {
            return None;
        }
        if self.suffixes.iter().any(|domain| domain == host) {
            return None;
        }
        self.suffixes
            .iter()
            .find_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'))
            .filter(|bucket| !bucket.is_empty())
            .map(str::to_owned)
    }
}

impl Address {
    /// The bucket's name, checked; `None` addresses the service.
    ///
    /// # Errors
    /// InvalidBucketName.
    pub fn bucket_name(&self) -> Result<Option<BucketName>, OssError> {
        self.bucket.as_deref().map(parse_bucket_name).transpose()
    }

    /// The object's key, checked; `None` addresses the bucket.
    ///
    /// # Errors
    /// InvalidObjectName.
    pub fn object_key(&self) -> Result<Option<ObjectKey>, OssError> {
        self.key.as_deref().map(parse_object_key).transpose()
    }
}

/// Checks a bucket name as a client spelled it.
///
/// # Errors
/// InvalidBucketName with the name.
pub fn parse_bucket_name(name: &str) -> Result<BucketName, OssError> {
    BucketName::try_from(name)
        .map_err(|_| OssError::new(ErrorCode::InvalidBucketName).extra("BucketName", name))
}

/// Checks an object name as a client spelled it.
///
/// # Errors
/// InvalidObjectName, told apart as the service does: empty, too long, or not allowed.
pub fn parse_object_key(key: &[u8]) -> Result<ObjectKey, OssError> {
    ObjectKey::try_from(key).map_err(|_| {
        let error = OssError::new(ErrorCode::InvalidObjectName);
        if key.is_empty() {
            error
                .message("The Object name can not be empty")
                .ec(ec::OBJECT_NAME_EMPTY)
        } else if key.len() > OBJECT_KEY_BYTES_MAX {
            object_key_too_long()
        } else {
            error.extra("ObjectName", String::from_utf8_lossy(key))
        }
    })
}

/// InvalidObjectName for a key of too many bytes.
pub(crate) fn object_key_too_long() -> OssError {
    OssError::new(ErrorCode::InvalidObjectName)
        .message("The Length of Object name must be less than 1024")
        .ec(ec::OBJECT_NAME_TOO_LONG)
}

/// The documented catalogue has no code for a target that cannot be read; InvalidURI is what S3,
/// from which the code list descends, calls it, and it is a 400 as clients expect.
fn invalid_uri(raw_path: &str) -> OssError {
    OssError::new(ErrorCode::InvalidURI).extra("URI", raw_path)
}

/// The host without port and trailing dot, in lower case; IPv6 literals keep their brackets.
fn host_name(host: &str) -> String {
    let host = host.trim();
    let name = match (host.starts_with('['), host.find(']')) {
        (true, Some(end)) => host.get(..=end).unwrap_or(host),
        _ => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(host: &str, path: &str) -> Result<Address, OssError> {
        Domains::new(["oss.example.com", "Example.com:9000", "s3.oss.example.com"])
            .resolve(Some(host).filter(|host| !host.is_empty()), path)
    }

    #[test]
    fn resolves_every_style() {
        use AddressStyle::{Path, VirtualHost};
        for (host, path, style, bucket, key) in [
            ("127.0.0.1:9000", "/", Path, None, None),
            ("127.0.0.1", "/b", Path, Some("b"), None),
            ("[::1]:9000", "/b/", Path, Some("b"), None),
            ("[fe80::1]", "/b/k", Path, Some("b"), Some("k")),
            (
                "localhost:9000",
                "/b/k//x/../y",
                Path,
                Some("b"),
                Some("k//x/../y"),
            ),
            ("LOCALHOST", "/b//k", Path, Some("b"), Some("/k")),
            (
                "localhost",
                "/b/a%2Fb+c%20d",
                Path,
                Some("b"),
                Some("a/b+c d"),
            ),
            ("b.localhost:1", "/k", VirtualHost, Some("b"), Some("k")),
            ("b.oss.example.com", "/", VirtualHost, Some("b"), None),
            (
                "B.OSS.example.com.:80",
                "/k/",
                VirtualHost,
                Some("b"),
                Some("k/"),
            ),
            (
                "b.oss.example.com",
                "//k",
                VirtualHost,
                Some("b"),
                Some("/k"),
            ),
            ("oss.example.com", "/b/k", Path, Some("b"), Some("k")),
            ("example.com", "/b", Path, Some("b"), None),
            // The longest configured domain wins.
            (
                "x.s3.oss.example.com",
                "/k",
                VirtualHost,
                Some("x"),
                Some("k"),
            ),
            ("s3.oss.example.com", "/x/k", Path, Some("x"), Some("k")),
            // Unknown hosts are path style; a suffix must end at a label.
            ("granary.internal", "/b/k", Path, Some("b"), Some("k")),
            ("notexample.com", "/b/k", Path, Some("b"), Some("k")),
            ("", "/b/k", Path, Some("b"), Some("k")),
        ] {
            let address = resolve(host, path).unwrap();
            let expected = Address {
                style,
                bucket: bucket.map(str::to_owned),
                key: key.map(|key: &str| key.as_bytes().to_vec()),
            };
            assert_eq!(address, expected, "{host} {path}");
        }
    }

    #[test]
    fn names_are_checked_with_the_services_errors() {
        for (path, code) in [
            ("/Bad_Bucket/k", ErrorCode::InvalidBucketName),
            ("/ab/k", ErrorCode::InvalidBucketName),
            ("//k", ErrorCode::InvalidBucketName),
            ("/bucket//k", ErrorCode::InvalidObjectName),
            ("/bucket/%5Ck", ErrorCode::InvalidObjectName),
            ("/bucket/%FF", ErrorCode::InvalidObjectName),
            (
                &format!("/bucket/{}", "k".repeat(1024)),
                ErrorCode::InvalidObjectName,
            ),
            ("/bucket/%zz", ErrorCode::InvalidURI),
            ("bucket/k", ErrorCode::InvalidURI),
        ] {
            let outcome = resolve("localhost", path)
                .and_then(|a| a.bucket_name().and_then(|_| a.object_key()).map(|_| ()));
            assert_eq!(outcome.unwrap_err().code(), code, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_legal_key_survives_both_styles(key in "[^/\\\\].{0,60}") {
            let wire = escape::encode_path(key.as_bytes());
            let path = resolve("10.0.0.1", &format!("/bucket/{wire}")).unwrap();
            let host = resolve("bucket.example.com", &format!("/{wire}")).unwrap();
            let expected = ObjectKey::try_from(key.as_str()).unwrap();
            prop_assert_eq!(path.object_key().unwrap(), Some(expected.clone()));
            prop_assert_eq!(host.object_key().unwrap(), Some(expected));
        }
    }
}
