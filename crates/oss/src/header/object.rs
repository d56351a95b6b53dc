//! Single headers with a closed set of values, flags, and the body's own description.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::limits::RESOURCE_GROUP_BYTES_MAX;
use granary_types::{BucketAcl, ObjectAcl, Redundancy, StorageClass};
use http::HeaderMap;

use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;

/// The first value of a header, trimmed; `None` when absent, empty or not UTF-8, which
/// [`super::check_readable`] refuses where it matters.
pub fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = std::str::from_utf8(headers.get(name)?.as_bytes())
        .ok()?
        .trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// A header whose value is `true` or `false`, such as `x-oss-forbid-overwrite`; absent is false.
///
/// # Errors
/// InvalidArgument for any other value.
pub fn flag(headers: &HeaderMap, name: &'static str) -> Result<bool, OssError> {
    match text(headers, name) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(invalid(name, value)),
    }
}

/// `x-oss-acl`, the ACL of a bucket.
///
/// # Errors
/// InvalidArgument.
pub fn bucket_acl(headers: &HeaderMap) -> Result<Option<BucketAcl>, OssError> {
    one_of(headers, "x-oss-acl", BucketAcl::parse)
}

/// `x-oss-object-acl`, the ACL of an object.
///
/// # Errors
/// InvalidArgument.
pub fn object_acl(headers: &HeaderMap) -> Result<Option<ObjectAcl>, OssError> {
    one_of(headers, "x-oss-object-acl", ObjectAcl::parse)
}

/// `x-oss-storage-class`.
///
/// # Errors
/// InvalidArgument.
pub fn storage_class(headers: &HeaderMap) -> Result<Option<StorageClass>, OssError> {
    one_of(headers, "x-oss-storage-class", StorageClass::parse)
}

/// `x-oss-data-redundancy-type`, which some clients send instead of the element.
///
/// # Errors
/// InvalidArgument.
pub fn redundancy(headers: &HeaderMap) -> Result<Option<Redundancy>, OssError> {
    one_of(headers, "x-oss-data-redundancy-type", Redundancy::parse)
}

/// `x-oss-resource-group-id`: `rg-`, then letters, digits and hyphens, as in `rg-default-id` (API
/// reference, PutBucket). Groups themselves are not known here.
///
/// # Errors
/// ResourceGroupIdPreCheckError for an id that no group has.
pub fn resource_group(headers: &HeaderMap) -> Result<Option<String>, OssError> {
    let Some(id) = text(headers, "x-oss-resource-group-id") else {
        return Ok(None);
    };
    let name = id.strip_prefix("rg-").unwrap_or_default();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || id.len() > RESOURCE_GROUP_BYTES_MAX || !name.bytes().all(legal) {
        return Err(OssError::new(ErrorCode::ResourceGroupIdPreCheckError));
    }
    Ok(Some(id))
}

/// `Content-MD5`: base64 of the body's MD5.
///
/// # Errors
/// InvalidDigest when it is not base64 of sixteen bytes.
pub fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, OssError> {
    let Some(value) = text(headers, "content-md5") else {
        return Ok(None);
    };
    let digest = STANDARD
        .decode(&value)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    digest
        .map(Some)
        .ok_or_else(|| OssError::new(ErrorCode::InvalidDigest).extra("Content-MD5", value.as_str()))
}

/// `Content-Length`; `None` for a chunked body.
///
/// # Errors
/// InvalidArgument when it is not a number.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, OssError> {
    let Some(value) = text(headers, "content-length") else {
        return Ok(None);
    };
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let length = value.parse().ok().filter(|_| digits);
    length
        .map(Some)
        .ok_or_else(|| invalid("Content-Length", value))
}

fn one_of<T>(
    headers: &HeaderMap,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, OssError> {
    let Some(value) = text(headers, name) else {
        return Ok(None);
    };
    parse(&value).map(Some).ok_or_else(|| invalid(name, value))
}

fn invalid(name: &'static str, value: String) -> OssError {
    let error = OssError::invalid_argument(
        format!("The value of the header {name} is invalid."),
        name,
        value,
    );
    match name {
        "x-oss-acl" => error.ec(ec::BUCKET_ACL),
        "x-oss-object-acl" => error.ec(ec::OBJECT_ACL),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn closed_sets() {
        assert_eq!(bucket_acl(&HeaderMap::new()).unwrap(), None);
        assert_eq!(
            bucket_acl(&one("x-oss-acl", "private")).unwrap(),
            Some(BucketAcl::Private)
        );
        assert!(bucket_acl(&one("x-oss-acl", "default")).is_err());
        assert_eq!(
            object_acl(&one("x-oss-object-acl", "default")).unwrap(),
            Some(ObjectAcl::Default)
        );
        assert_eq!(
            storage_class(&one("x-oss-storage-class", "IA")).unwrap(),
            Some(StorageClass::Ia)
        );
        let error = storage_class(&one("x-oss-storage-class", "Hot")).unwrap_err();
        assert_eq!(error.extra_value("ArgumentValue"), Some("Hot"));
        assert_eq!(
            redundancy(&one("x-oss-data-redundancy-type", "ZRS")).unwrap(),
            Some(Redundancy::Zrs)
        );
        assert!(
            flag(
                &one("x-oss-forbid-overwrite", "True"),
                "x-oss-forbid-overwrite"
            )
            .unwrap()
        );
        assert!(
            flag(
                &one("x-oss-forbid-overwrite", "1"),
                "x-oss-forbid-overwrite"
            )
            .is_err()
        );
    }

    #[test]
    fn resource_groups() {
        let of = |id: &str| resource_group(&one("x-oss-resource-group-id", id));
        let longest = format!("rg-{}", "a".repeat(RESOURCE_GROUP_BYTES_MAX - 3));
        for id in ["rg-aekzdibsjjc2uqy", "rg-default-id", &longest] {
            assert_eq!(of(id).unwrap().as_deref(), Some(id));
        }
        assert_eq!(of(" ").unwrap(), None);
        let too_long = format!("{longest}a");
        for bad in ["rg-", "rf-asdf", "aekz", "rg-a_b", "rg-a b", &too_long] {
            let error = of(bad).unwrap_err();
            assert_eq!(
                (error.code(), error.ec_text()),
                (ErrorCode::ResourceGroupIdPreCheckError, "0039-00000003"),
                "{bad}"
            );
        }
    }

    #[test]
    fn digests_and_lengths() {
        let md5 = content_md5(&one("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="))
            .unwrap()
            .unwrap();
        assert_eq!(hex::encode(md5), "d41d8cd98f00b204e9800998ecf8427e");
        for bad in ["AAAA", "not base64", "1B2M2Y8AsgTpgAmY7PhCfg"] {
            let error = content_md5(&one("content-md5", bad)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidDigest, "{bad}");
        }
        assert_eq!(
            content_length(&one("content-length", "12")).unwrap(),
            Some(12)
        );
        assert_eq!(content_length(&HeaderMap::new()).unwrap(), None);
        for bad in ["-1", "+1", "99999999999999999999999"] {
            assert!(
                content_length(&one("content-length", bad)).is_err(),
                "{bad}"
            );
        }
    }
}
