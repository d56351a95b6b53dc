//! A version as answers describe it, and the refusals that come with reading one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::state;
use granary_oss::error::ec;
use granary_oss::header::date::{format_http_date, format_iso8601};
use granary_oss::header::{Preconditions, Verdict};
use granary_oss::{ErrorCode, OssError};
use granary_types::{ETag, ObjectKey, ObjectType, StorageClass, Timestamp};
use http::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::buckets::{Bucket, Versioning};
use crate::render::insert;
use crate::version_id::{self, VersionRef};

const DELETE_MARKER: HeaderName = HeaderName::from_static("x-oss-delete-marker");
const VERSION_ID: HeaderName = HeaderName::from_static("x-oss-version-id");

/// The headers that describe a version: for GET and HEAD.
pub(super) fn describe(version: &state::Version, bucket: &Bucket) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16 + version.user_meta.len());
    insert(&mut headers, CONTENT_TYPE, "application/octet-stream");
    for header in &version.headers {
        if let Ok(name) = HeaderName::try_from(header.name.as_str()) {
            insert(&mut headers, name, &header.value);
        }
    }
    for meta in &version.user_meta {
        if let Ok(name) = HeaderName::try_from(format!("x-oss-meta-{}", meta.name)) {
            insert(&mut headers, name, &meta.value);
        }
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    identify(&mut headers, version, bucket);
    let mut oss = |name: &'static str, value: &str| {
        insert(&mut headers, HeaderName::from_static(name), value);
    };
    if let Some(md5) = content_md5(version) {
        oss("content-md5", &md5);
    }
    if let Some(kind) = ObjectType::from_number(version.object_type) {
        oss("x-oss-object-type", kind.as_str());
    }
    if let Some(class) = StorageClass::from_number(version.storage_class) {
        oss("x-oss-storage-class", class.as_str());
    }
    if version.object_type == ObjectType::Appendable.number() {
        oss("x-oss-next-append-position", &version.size.to_string());
    }
    if version.sealed_ms > 0 {
        let sealed = format_http_date(Timestamp(version.sealed_ms));
        oss("x-oss-sealed-time", &sealed);
    }
    if !version.tags.is_empty() {
        oss("x-oss-tagging-count", &version.tags.len().to_string());
    }
    if let Some(restore) = &version.restore {
        oss("x-oss-restore", &restore_text(restore));
    }
    headers
}

/// The headers that identify a version: for GET, HEAD and GetObjectMeta.
pub(super) fn identify(headers: &mut HeaderMap, version: &state::Version, bucket: &Bucket) {
    if !version.etag.is_empty() {
        insert(headers, ETAG, &etag(version).quoted());
    }
    insert(
        headers,
        LAST_MODIFIED,
        &format_http_date(Timestamp(version.modified_ms)),
    );
    if version.has_crc64 {
        let name = HeaderName::from_static("x-oss-hash-crc64ecma");
        insert(headers, name, &version.crc64.to_string());
    }
    if bucket.versioning != Versioning::Unset {
        insert(headers, VERSION_ID, &version_id::of(version));
    }
}

/// The tag of a version.
pub(super) fn etag(version: &state::Version) -> ETag {
    ETag::parse(&version.etag)
}

/// The text of `x-oss-restore`.
pub(crate) fn restore_text(restore: &state::RestoreState) -> String {
    if restore.ongoing {
        return "ongoing-request=\"true\"".to_owned();
    }
    let expires = format_http_date(Timestamp(restore.expires_ms));
    format!("ongoing-request=\"false\", expiry-date=\"{expires}\"")
}

/// The base64 MD5 of a version's bytes, where it is known: what was written in one piece has it as
/// its tag, of others the record may know it.
pub(crate) fn content_md5(version: &state::Version) -> Option<String> {
    if !version.content_md5.is_empty() {
        return Some(version.content_md5.clone());
    }
    let tag = version.etag.as_bytes();
    if version.object_type != ObjectType::Normal.number() || tag.len() != 32 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> = tag
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect();
    bytes.map(|bytes| STANDARD.encode(bytes))
}

/// The version to read and its inline bytes, or why there is none: a missing key, a missing
/// version, a delete marker.
///
/// # Errors
/// NoSuchKey, NoSuchVersion, MethodNotAllowed.
pub(super) fn existing(
    found: Option<pb::VersionResult>,
    key: &ObjectKey,
    asked: VersionRef,
) -> Result<(state::Version, Bytes), OssError> {
    let inline = found
        .as_ref()
        .map(|found| found.inline.clone())
        .unwrap_or_default();
    match found.and_then(|found| found.version) {
        Some(version) if version.delete_marker => Err(is_delete_marker(&version, key, asked)),
        Some(version) => Ok((version, inline)),
        None if asked == VersionRef::Current => Err(no_such_key(key)),
        None => Err(OssError::new(ErrorCode::NoSuchVersion).extra("Key", key.as_str())),
    }
}

/// Refuses what a directory does not have: an ACL of its own, bytes to copy.
///
/// # Errors
/// FileAlreadyExists, as the service answers.
pub(super) fn refuse_directory(version: &state::Version, key: &ObjectKey) -> Result<(), OssError> {
    if !is_directory(version) {
        return Ok(());
    }
    Err(OssError::new(ErrorCode::FileAlreadyExists)
        .message("The object you specified is a directory.")
        .extra("Key", key.as_str()))
}

/// Whether it is a directory of a bucket that has a hierarchy.
pub(super) fn is_directory(version: &state::Version) -> bool {
    version.object_type == ObjectType::Directory.number()
}

fn is_delete_marker(marker: &state::Version, key: &ObjectKey, asked: VersionRef) -> OssError {
    let error = match asked {
        VersionRef::Current => no_such_key(key),
        VersionRef::Null | VersionRef::Stamp(_) => OssError::new(ErrorCode::MethodNotAllowed)
            .ec(ec::VERSION_IS_DELETE_MARKER)
            .extra("ResourceType", "DeleteMarker"),
    };
    let error = error.header(DELETE_MARKER, HeaderValue::from_static("true"));
    match HeaderValue::try_from(version_id::of(marker)) {
        Ok(id) => error.header(VERSION_ID, id),
        Err(_) => error,
    }
}

/// NoSuchKey with the key.
pub(super) fn no_such_key(key: &ObjectKey) -> OssError {
    OssError::new(ErrorCode::NoSuchKey).extra("Key", key.as_str())
}

/// Judges the conditions of a read, or of a copy about its source.
///
/// # Errors
/// NotModified, PreconditionFailed.
pub(super) fn check_conditions(
    conditions: &Preconditions,
    version: &state::Version,
) -> Result<(), OssError> {
    let modified = Timestamp(version.modified_ms);
    match conditions.evaluate(&etag(version), modified) {
        Verdict::Proceed => Ok(()),
        Verdict::Failed => {
            let condition = match conditions.if_match {
                Some(_) => "If-Match",
                None => "If-Unmodified-Since",
            };
            Err(OssError::new(ErrorCode::PreconditionFailed)
                .extra("Condition", condition)
                .extra("LastModified", format_iso8601(modified)))
        }
        Verdict::NotModified => {
            let mut error = OssError::new(ErrorCode::NotModified);
            for (name, value) in [
                (ETAG, etag(version).quoted()),
                (LAST_MODIFIED, format_http_date(modified)),
            ] {
                if let Ok(value) = HeaderValue::try_from(value) {
                    error = error.header(name, value);
                }
            }
            Err(error)
        }
    }
}

/// Refuses to read the bytes of an object of an archive class that is not restored.
///
/// # Errors
/// InvalidObjectState.
pub(super) fn check_readable(version: &state::Version, now: Timestamp) -> Result<(), OssError> {
    let class = StorageClass::from_number(version.storage_class);
    let is_cold = !matches!(class, Some(StorageClass::Standard | StorageClass::Ia));
    let restored = version
        .restore
        .as_ref()
        .is_some_and(|restore| !restore.ongoing && restore.expires_ms > now.as_millis());
    if is_cold && !restored {
        return Err(OssError::new(ErrorCode::InvalidObjectState));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal() -> state::Version {
        state::Version {
            object_type: ObjectType::Normal.number(),
            etag: "D41D8CD98F00B204E9800998ECF8427E".to_owned(),
            storage_class: StorageClass::Standard.number(),
            ..state::Version::default()
        }
    }

    #[test]
    fn md5_comes_from_the_tag_of_a_normal_object() {
        assert_eq!(content_md5(&normal()).unwrap(), "1B2M2Y8AsgTpgAmY7PhCfg==");
        let multipart = state::Version {
            etag: format!("{}-2", "A".repeat(32)),
            ..normal()
        };
        assert_eq!(content_md5(&multipart), None);
        let other = state::Version {
            object_type: ObjectType::Appendable.number(),
            ..normal()
        };
        assert_eq!(content_md5(&other), None);
    }

    #[test]
    fn missing_and_deleted_versions_have_their_errors() {
        let key = ObjectKey::try_from("k").unwrap();
        let result = |version| pb::VersionResult {
            found: true,
            version: Some(version),
            ..pb::VersionResult::default()
        };
        let marker = state::Version {
            delete_marker: true,
            stamp: 7,
            ..state::Version::default()
        };
        for (found, asked, code, marked) in [
            (None, VersionRef::Current, ErrorCode::NoSuchKey, false),
            (None, VersionRef::Null, ErrorCode::NoSuchVersion, false),
            (None, VersionRef::Stamp(1), ErrorCode::NoSuchVersion, false),
            (
                Some(marker.clone()),
                VersionRef::Current,
                ErrorCode::NoSuchKey,
                true,
            ),
            (
                Some(marker),
                VersionRef::Stamp(7),
                ErrorCode::MethodNotAllowed,
                true,
            ),
        ] {
            let error = existing(found.map(result), &key, asked).unwrap_err();
            assert_eq!(error.code(), code);
            assert_eq!(
                error
                    .headers()
                    .iter()
                    .any(|(name, _)| name == DELETE_MARKER),
                marked
            );
        }
        assert!(existing(Some(result(normal())), &key, VersionRef::Current).is_ok());
    }

    #[test]
    fn archived_objects_must_be_restored() {
        let now = Timestamp(1000);
        assert!(check_readable(&normal(), now).is_ok());
        let cold = state::Version {
            storage_class: StorageClass::Archive.number(),
            ..normal()
        };
        let restored = |ongoing, expires_ms| state::Version {
            restore: Some(state::RestoreState {
                ongoing,
                expires_ms,
                tier: 0,
            }),
            ..cold.clone()
        };
        assert!(check_readable(&cold, now).is_err());
        assert!(check_readable(&restored(true, 2000), now).is_err());
        assert!(check_readable(&restored(false, 500), now).is_err());
        assert!(check_readable(&restored(false, 2000), now).is_ok());
    }
}
