//! The headers of CopyObject and UploadPartCopy.

use granary_types::{BucketName, ByteRange, ObjectKey};
use http::HeaderMap;

use super::object::text;
use super::range::{RangeOutcome, resolve_range};
use crate::address::{parse_bucket_name, parse_object_key};
use crate::error::{OssError, ec};
use crate::escape;

/// `x-oss-copy-source: /bucket/percent-encoded-key[?versionId=id]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// The source bucket.
    pub bucket: BucketName,
    /// The source key.
    pub key: ObjectKey,
    /// The source version; `None` is the current one.
    pub version_id: Option<String>,
}

impl CopySource {
    /// Reads the header; `None` when the request is not a copy.
    ///
    /// The key is decoded like a query value, `+` as a space: go v1 encodes it with `QueryEscape`, and
    /// every SDK sends a plus as `%2B`. `?versionId=` is looked for before decoding, so a key
    /// may contain an encoded `?`.
    ///
    /// # Errors
    /// InvalidArgument when it does not name an object; InvalidBucketName; InvalidObjectName.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, OssError> {
        text(headers, "x-oss-copy-source")
            .map(|value| Self::parse(&value))
            .transpose()
    }

    /// Reads the header's value.
    ///
    /// # Errors
    /// As [`CopySource::from_headers`].
    pub fn parse(value: &str) -> Result<Self, OssError> {
        let invalid = || {
            OssError::invalid_argument(
                "Copy Source must mention the source bucket and key: /sourcebucket/sourcekey.",
                "x-oss-copy-source",
                value,
            )
        };
        let (path, query) = value.split_once('?').unwrap_or((value, ""));
        let version_id = match query.split_once('=') {
            Some(("versionId", id)) if !id.is_empty() => {
                Some(String::from_utf8(escape::decode_query(id)).map_err(|_| invalid())?)
            }
            Some(("versionId", _)) => return Err(invalid().ec(ec::COPY_SOURCE_VERSION_EMPTY)),
            _ if query.is_empty() => None,
            _ => return Err(invalid().ec(ec::COPY_SOURCE_PARAMETER)),
        };
        // The SDKs that encode the whole path send the slash after the bucket as %2F.
        let decoded = escape::decode_query(path.strip_prefix('/').ok_or_else(invalid)?);
        let slash = decoded
            .iter()
            .position(|byte| *byte == b'/')
            .ok_or_else(invalid)?;
        let (bucket, key) = decoded.split_at(slash);
        let key = key
            .strip_prefix(b"/")
            .filter(|key| !key.is_empty())
            .ok_or_else(invalid)?;
        Ok(Self {
            bucket: parse_bucket_name(&String::from_utf8_lossy(bucket))?,
            key: parse_object_key(key)?,
            version_id,
        })
    }
}

/// `x-oss-rename-source: percent-encoded-path`, of the bucket that is addressed; a slash before it is
/// allowed.
///
/// # Errors
/// InvalidArgument when there is none; InvalidObjectName.
pub fn rename_source(headers: &HeaderMap) -> Result<ObjectKey, OssError> {
    let Some(value) = text(headers, "x-oss-rename-source") else {
        let message = "The path to rename must be named.";
        return Err(OssError::invalid_argument(
            message,
            "x-oss-rename-source",
            "",
        ));
    };
    let decoded = escape::decode_query(&value);
    parse_object_key(decoded.strip_prefix(b"/").unwrap_or(&decoded))
}

/// The bytes of the source that a part is copied from. Anything but a range wholly inside the source
/// means all of it, as the service has it.
pub fn copy_source_range(headers: &HeaderMap, size: u64) -> ByteRange {
    let value = text(headers, "x-oss-copy-source-range").unwrap_or_default();
    match resolve_range(&value, size, false) {
        RangeOutcome::Partial(range) => range,
        RangeOutcome::Whole | RangeOutcome::Unsatisfiable => ByteRange::whole(size),
    }
}

/// Where a copy takes its metadata from (`x-oss-metadata-directive`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataDirective {
    /// From the source.
    #[default]
    Copy,
    /// From the request.
    Replace,
}

/// Where a copy takes its tags from (`x-oss-tagging-directive`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaggingDirective {
    /// From the source.
    #[default]
    Copy,
    /// From the request.
    Replace,
}

impl MetadataDirective {
    /// Reads the header.
    ///
    /// # Errors
    /// InvalidArgument for anything but COPY and REPLACE, whose case does not matter.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, OssError> {
        let replace = is_replace(headers, "x-oss-metadata-directive")?;
        Ok(if replace { Self::Replace } else { Self::Copy })
    }
}

impl TaggingDirective {
    /// Reads the header.
    ///
    /// # Errors
    /// InvalidArgument for anything but Copy and Replace, whose case does not matter.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, OssError> {
        let replace = is_replace(headers, "x-oss-tagging-directive")?;
        Ok(if replace { Self::Replace } else { Self::Copy })
    }
}

fn is_replace(headers: &HeaderMap, name: &'static str) -> Result<bool, OssError> {
    match text(headers, name) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("copy") => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("replace") => Ok(true),
        Some(value) => Err(OssError::invalid_argument(
            format!("The value of {name} must be COPY or REPLACE."),
            name,
            value,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;
    use proptest::prelude::*;

    #[test]
    fn reads_every_spelling_of_a_source() {
        for (value, key, version) in [
            ("/src-bucket/k", "k", None),
            ("/src-bucket/a/b", "a/b", None),
            ("/src-bucket/a%2Fb+c%2Bd", "a/b c+d", None),
            ("/src-bucket%2Fa%3Fb", "a?b", None),
            ("/src-bucket/%E4%B8%AD?versionId=CAE%2F", "中", Some("CAE/")),
            ("/src-bucket/k?versionId=null", "k", Some("null")),
        ] {
            let source = CopySource::parse(value).unwrap();
            assert_eq!(source.bucket.as_str(), "src-bucket");
            assert_eq!(
                (source.key.as_str(), source.version_id.as_deref()),
                (key, version),
                "{value}"
            );
        }
        for (value, code) in [
            ("src-bucket/k", ErrorCode::InvalidArgument),
            ("/src-bucket", ErrorCode::InvalidArgument),
            ("/src-bucket/", ErrorCode::InvalidArgument),
            ("/src-bucket/k?other=1", ErrorCode::InvalidArgument),
            ("/Src/k", ErrorCode::InvalidBucketName),
            ("/src-bucket//k", ErrorCode::InvalidObjectName),
        ] {
            assert_eq!(
                CopySource::parse(value).unwrap_err().code(),
                code,
                "{value}"
            );
        }
        assert_eq!(CopySource::from_headers(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_bad_range_copies_everything() {
        let mut headers = HeaderMap::new();
        assert_eq!(copy_source_range(&headers, 10), ByteRange::whole(10));
        for (value, start, end) in [
            ("bytes=2-4", 2, 5),
            ("bytes=2-", 2, 10),
            ("bytes=5-99", 0, 10),
            ("bytes=-0", 0, 10),
        ] {
            headers.insert("x-oss-copy-source-range", value.parse().unwrap());
            assert_eq!(
                copy_source_range(&headers, 10),
                ByteRange { start, end },
                "{value}"
            );
        }
    }

    #[test]
    fn directives() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            MetadataDirective::from_headers(&headers).unwrap(),
            MetadataDirective::Copy
        );
        headers.insert("x-oss-metadata-directive", "REPLACE".parse().unwrap());
        headers.insert("x-oss-tagging-directive", "Maybe".parse().unwrap());
        assert_eq!(
            MetadataDirective::from_headers(&headers).unwrap(),
            MetadataDirective::Replace
        );
        assert!(TaggingDirective::from_headers(&headers).is_err());
    }

    proptest! {
        #[test]
        fn any_key_survives(key in "[^/\\\\].{0,60}") {
            for wire in [escape::encode(key.as_bytes()), escape::encode_path(key.as_bytes())] {
                let source = CopySource::parse(&format!("/bucket/{wire}?versionId=v")).unwrap();
                prop_assert_eq!(source.key.as_str(), key.as_str());
            }
        }
    }
}
