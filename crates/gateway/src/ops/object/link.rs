//! Reading through symbolic links: GET and HEAD of a link answer with the target's bytes.
//!
//! A link leads to one object of the same bucket, in its current version; a link to a link leads
//! nowhere (API reference, PutSymlink).

use std::borrow::Cow;

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ObjectKey, ObjectType};
use http::{HeaderMap, HeaderName};

use super::version::{content_md5, describe, etag};
use crate::ctx::Ctx;
use crate::render::insert;

/// What a read answers with.
pub(super) struct Read {
    /// Whose bytes.
    pub(super) key: ObjectKey,
    pub(super) version: state::Version,
    pub(super) inline: Bytes,
    /// The link that led there.
    link: Option<state::Version>,
}

impl Read {
    /// Follows a version if it is a link.
    ///
    /// # Errors
    /// SymlinkTargetNotExist, InvalidTargetType, AccessDenied, ServiceUnavailable.
    pub(super) async fn follow(
        cx: &mut Ctx,
        key: ObjectKey,
        version: state::Version,
        inline: Bytes,
    ) -> Result<Self, OssError> {
        if version.object_type != ObjectType::Symlink.number() {
            return Ok(Self {
                key,
                version,
                inline,
                link: None,
            });
        }
        let dangling = || {
            OssError::new(ErrorCode::SymlinkTargetNotExist)
                .extra("Key", key.as_str())
                .extra("TargetKey", version.symlink_target.as_str())
        };
        let target = ObjectKey::try_from(version.symlink_target.as_str());
        let target = target.map_err(|_| dangling())?;
        // A public link does not open a private object.
        let found = cx.find_beside(&target, cx.action).await?;
        let found = found.ok_or_else(dangling)?;
        let led_to = found.version.filter(|version| !version.delete_marker);
        let led_to = led_to.ok_or_else(dangling)?;
        if led_to.object_type == ObjectType::Symlink.number() {
            return Err(OssError::new(ErrorCode::InvalidTargetType)
                .extra("Key", key.as_str())
                .extra("TargetType", "Symlink"));
        }
        Ok(Self {
            key: target,
            version: led_to,
            inline: found.inline,
            link: Some(version),
        })
    }

    /// The headers of the answer: of a link its own, with the size, tag and checksums of the target
    /// and the later of the two times.
    ///
    /// # Errors
    /// NoSuchBucket.
    pub(super) fn describe(&self, cx: &Ctx) -> Result<HeaderMap, OssError> {
        let bucket = cx.bucket()?;
        let Some(link) = &self.link else {
            return Ok(describe(&self.version, bucket));
        };
        let mut headers = describe(&self.seen(), bucket);
        let mut set = |name: &'static str, value: &str| {
            insert(&mut headers, HeaderName::from_static(name), value);
        };
        set("etag", &etag(&self.version).quoted());
        if let Some(md5) = content_md5(&self.version) {
            set("content-md5", &md5);
        }
        let target = granary_oss::escape::encode_path(link.symlink_target.as_bytes());
        set("x-oss-symlink-target", &target);
        Ok(headers)
    }

    /// The version as clients see it: what conditions are judged by.
    pub(super) fn seen(&self) -> Cow<'_, state::Version> {
        let Some(link) = &self.link else {
            return Cow::Borrowed(&self.version);
        };
        Cow::Owned(state::Version {
            etag: self.version.etag.clone(),
            size: self.version.size,
            crc64: self.version.crc64,
            has_crc64: self.version.has_crc64,
            modified_ms: link.modified_ms.max(self.version.modified_ms),
            ..link.clone()
        })
    }
}
