//! CopyObject: makes an object of the bytes of another one, without the client in between.
//!
//! The bytes are copied before the record is: a copy is an object of its own and outlives its
//! source. Metadata and tags come from the source or from the request, as the directives say.
//!
//! A copy of an object onto itself gives it other metadata. Where no version is kept of what it was, no
//! byte is moved for that.

use granary_datapath::CopyDigests;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::header::{MetadataDirective, TaggingDirective};
use granary_oss::xml::CopyObjectResult;
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::PUT_BYTES_MAX;
use granary_types::{ByteRange, ETag, ObjectKey, ObjectType, Timestamp};
use http::header;

use super::source::Found;
use super::{Attributes, CALLBACKS, Source, forbids_overwrite, write_failed};
use crate::buckets::Versioning;
use crate::conditions::CONDITIONS;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::hierarchy;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// The input.
#[derive(Debug)]
pub(crate) struct CopyObject {
    key: ObjectKey,
    source: Source,
    attributes: Attributes,
    metadata: MetadataDirective,
    tagging: TaggingDirective,
    onto_itself: bool,
}

/// Copies onto itself that may find the object changed meanwhile before its bytes are copied after all.
const IN_PLACE_ATTEMPTS_MAX: u32 = 5;

impl Operation for CopyObject {
    const BODY: BodyKind = BodyKind::None;
    /// Its conditions are about its source.
    const IGNORED_CONDITIONS: &'static [&'static str] = &CONDITIONS;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(CALLBACKS)?;
        let (key, source) = (head.object_key()?, Source::parse(head)?);
        let bucket = head.bucket_name()?;
        let onto_itself = source.named.bucket == bucket
            && source.named.key == key
            && source.named.version_id.is_none();
        Ok(Self {
            metadata: MetadataDirective::from_headers(&head.headers)?,
            tagging: TaggingDirective::from_headers(&head.headers)?,
            attributes: Attributes::parse(head)?,
            key,
            source,
            onto_itself,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let forbid_overwrite = forbids_overwrite(&cx.head, cx.bucket()?)?;
        let mut found = self.source.find(cx).await?;
        let mut attributes = self.attributes(found.version(), cx.bucket()?.versioning)?;
        for _ in 0..IN_PLACE_ATTEMPTS_MAX {
            if !self.can_be_in_place(cx, &found, &attributes)? {
                break;
            }
            if let Some(stored) = self
                .in_place(cx, &found, &attributes, forbid_overwrite)
                .await?
            {
                return answer(cx, &found, &stored);
            }
            // Somebody else changed it: what is to be kept, and what was asked of it, is looked at again.
            found = self.source.find(cx).await?;
            attributes = self.attributes(found.version(), cx.bucket()?.versioning)?;
        }
        hierarchy::check_attributes(cx.bucket()?, &self.key, &attributes)?;
        let size = found.version().size;
        let class = attributes.class_in(cx.bucket()?);
        let same_bucket = cx.bucket()?.name == self.source.named.bucket;
        let same_class = found.version().storage_class == class.number();
        check_size(size, same_bucket, same_class)?;
        // 1. The bytes become durable, but belong to nothing. A link has none of its own.
        let target = cx.write_target(&self.key, class)?;
        let whole = ByteRange::whole(size);
        let digests = match has_own_tag(found.version()) {
            true => CopyDigests::Keep,
            false => CopyDigests::Compute,
        };
        let copied = match found.copy(cx, whole, target, digests).await {
            Ok(copied) => copied,
            Err(error) => return Err(write_failed(cx, error).await),
        };
        // 2. The commit makes them the object.
        let template = attributes.to_version(cx.bucket()?, cx.object_owner()?);
        let version = copy_of(found.version(), template, copied.digests, copied.size);
        let movable = copied.payload.extents.is_empty() && copied.payload.staged_extents == 0;
        let decision = cx.propose_at(&self.key, movable, |at| pb::PutObject {
            at: Some(at),
            version: Some(version.clone()),
            payload: Some(copied.payload.clone()),
            forbid_overwrite,
        });
        let reply = decision
            .await?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        answer(cx, &found, &reply.version.unwrap_or(version))
    }
}

fn answer(cx: &Ctx, found: &Found, stored: &pb::state::Version) -> Result<Output, OssError> {
    let result = CopyObjectResult {
        etag: ETag::parse(&stored.etag),
        last_modified: Timestamp(stored.modified_ms),
    };
    let versioned = cx.bucket()?.versioning != Versioning::Unset;
    // Some SDKs read the tag of a copy from the header.
    let etag = result.etag.quoted();
    Ok(Output::xml(result.to_xml())
        .header(header::ETAG, &etag)
        .oss(
            "x-oss-hash-crc64ecma",
            stored.has_crc64.then(|| stored.crc64.to_string()),
        )
        .oss(
            "x-oss-version-id",
            versioned.then(|| version_id::of(stored)),
        )
        .oss("x-oss-copy-source-version-id", found.version_id()))
}

impl CopyObject {
    /// Whether the object can keep its bytes: it is the null version, which this write replaces, and stays
    /// in its class. A link has none.
    fn can_be_in_place(
        &self,
        cx: &Ctx,
        found: &Found,
        attributes: &Attributes,
    ) -> Result<bool, OssError> {
        let (bucket, version) = (cx.bucket()?, found.version());
        Ok(self.onto_itself
            && found.changes_in_place
            && found.bucket().id == bucket.id
            && bucket.versioning != Versioning::Enabled
            && version.is_null
            && version.object_type != ObjectType::Symlink.number()
            && version.storage_class == attributes.class_in(bucket).number())
    }

    /// Gives the object its new attributes where it stands; `None` when it is not what was found any more.
    async fn in_place(
        &self,
        cx: &mut Ctx,
        found: &Found,
        attributes: &Attributes,
        forbid_overwrite: bool,
    ) -> Result<Option<pb::state::Version>, OssError> {
        let seen = found.version();
        let template = attributes.to_version(cx.bucket()?, cx.object_owner()?);
        let set_tags = self.tagging == TaggingDirective::Replace;
        let decision = cx.propose_at(&self.key, true, |at| pb::SetObjectMeta {
            at: Some(at),
            version_stamp: seen.stamp,
            modified_ms: seen.modified_ms,
            etag: seen.etag.clone(),
            headers: template.headers.clone(),
            user_meta: template.user_meta.clone(),
            set_tags,
            tags: match set_tags {
                true => template.tags.clone(),
                false => Vec::new(),
            },
            acl: template.acl,
            forbid_overwrite,
        });
        match decision.await? {
            Ok(reply) => Ok(reply.version),
            Err(rejection) if rejection.reason() == Reason::Stale => Ok(None),
            Err(rejection) => Err(failure::of_rejection(&rejection)),
        }
    }

    /// Where the new object's metadata comes from. An object copied onto itself gets what the request names,
    /// whatever the directive says, unless that makes a version beside the old one.
    fn metadata_from(&self, versioning: Versioning) -> MetadataDirective {
        let names_any =
            !self.attributes.headers.is_empty() || !self.attributes.user_meta.is_empty();
        match self.onto_itself && names_any && versioning != Versioning::Enabled {
            true => MetadataDirective::Replace,
            false => self.metadata,
        }
    }

    /// The new object's attributes, from the source or from the request.
    fn attributes(
        &self,
        source: &pb::state::Version,
        versioning: Versioning,
    ) -> Result<Attributes, OssError> {
        let mut attributes = self.attributes.clone();
        let kept = Attributes::of_version(source);
        if self.metadata_from(versioning) == MetadataDirective::Copy {
            attributes.headers = kept.headers;
            attributes.user_meta = kept.user_meta;
        }
        if self.tagging == TaggingDirective::Copy {
            attributes.tags = kept.tags;
        }
        attributes.check_size()?;
        Ok(attributes)
    }
}

/// Largest object whose class one copy may change, in bytes (API reference, CopyObject).
const CLASS_CHANGE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What one copy may carry: as much as one upload between buckets, less when the class changes, and
/// any object inside its bucket.
fn check_size(size: u64, same_bucket: bool, same_class: bool) -> Result<(), OssError> {
    let max = match (same_bucket, same_class) {
        (_, false) => CLASS_CHANGE_BYTES_MAX,
        (false, true) => PUT_BYTES_MAX,
        (true, true) => return Ok(()),
    };
    if size <= max {
        return Ok(());
    }
    Err(OssError::new(ErrorCode::EntityTooLarge)
        .message("The source is too large for one copy: use UploadPartCopy.")
        .extra("MaxSizeAllowed", max.to_string()))
}

/// Whether a copy keeps the source's tag. What was appended becomes an object like one that was put
/// in one piece, whose tag is its MD5.
fn has_own_tag(source: &pb::state::Version) -> bool {
    source.object_type != ObjectType::Appendable.number()
}

/// The record of a copy: the source's tag and checksum hold as long as its bytes are kept as they
/// are.
fn copy_of(
    source: &pb::state::Version,
    template: pb::state::Version,
    digests: Option<([u8; 16], u64)>,
    size: u64,
) -> pb::state::Version {
    if source.object_type == ObjectType::Symlink.number() {
        return pb::state::Version {
            object_type: source.object_type,
            etag: source.etag.clone(),
            symlink_target: source.symlink_target.clone(),
            ..template
        };
    }
    let multipart = source.object_type == ObjectType::Multipart.number();
    let kind = if multipart {
        ObjectType::Multipart
    } else {
        ObjectType::Normal
    };
    let etag = match digests {
        Some((md5, _)) if !has_own_tag(source) => ETag::from_md5(md5).as_str().to_owned(),
        _ => source.etag.clone(),
    };
    let (crc64, has_crc64) = match digests {
        Some((_, crc64)) => (crc64, true),
        None => (source.crc64, source.has_crc64),
    };
    pb::state::Version {
        object_type: kind.number(),
        size,
        etag,
        crc64,
        has_crc64,
        content_md5: match has_own_tag(source) {
            true => source.content_md5.clone(),
            false => String::new(),
        },
        ..template
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    fn parse(headers: &[(&str, &str)]) -> Result<CopyObject, OssError> {
        CopyObject::parse(&head("PUT", "localhost", "/bucket/k", headers))
    }

    #[test]
    fn directives_say_where_attributes_come_from() {
        let source = pb::state::Version {
            headers: vec![pb::state::Header {
                name: "content-type".into(),
                value: "a/b".into(),
            }],
            tags: vec![pb::state::Tag {
                key: "t".into(),
                value: "1".into(),
            }],
            ..Default::default()
        };
        let new = Some("c/d");
        let (unset, enabled) = (Versioning::Unset, Versioning::Enabled);
        for (from, metadata, tagging, named, versioning, kind, tag) in [
            ("/other/k", "COPY", "Copy", new, unset, "a/b", "1"),
            ("/other/k", "REPLACE", "Copy", new, unset, "c/d", "1"),
            ("/other/k", "COPY", "Replace", new, unset, "a/b", "2"),
            // Onto itself: the request's, if it names any.
            ("/bucket/k", "COPY", "Replace", new, unset, "c/d", "2"),
            ("/bucket/k", "COPY", "Copy", None, unset, "a/b", "1"),
            // A version of its own: as the directive says.
            ("/bucket/k", "COPY", "Copy", new, enabled, "a/b", "1"),
            ("/bucket/k", "REPLACE", "Copy", new, enabled, "c/d", "1"),
        ] {
            let mut headers = vec![
                ("x-oss-copy-source", from),
                ("x-oss-metadata-directive", metadata),
                ("x-oss-tagging-directive", tagging),
                ("x-oss-tagging", "t=2"),
            ];
            headers.extend(named.map(|kind| ("content-type", kind)));
            let copy = parse(&headers);
            let attributes = copy.unwrap().attributes(&source, versioning).unwrap();
            assert_eq!(
                attributes.headers,
                [("content-type".to_owned(), kind.to_owned())]
            );
            assert_eq!(attributes.tags, [("t".to_owned(), tag.to_owned())]);
        }
    }

    #[test]
    fn copies_are_limited_by_where_they_go() {
        const GIB: u64 = 1024 * 1024 * 1024;
        for (size, same_bucket, same_class, max) in [
            (5 * GIB, false, true, None),
            (5 * GIB + 1, false, true, Some(5 * GIB)),
            (5 * GIB + 1, true, true, None),
            (1 << 45, true, true, None),
            (GIB, true, false, None),
            (GIB + 1, true, false, Some(GIB)),
            (GIB + 1, false, false, Some(GIB)),
        ] {
            let outcome = check_size(size, same_bucket, same_class);
            let max = max.map(|max: u64| (ErrorCode::EntityTooLarge, max.to_string()));
            let allowed = |error: OssError| {
                let allowed = error.extra_value("MaxSizeAllowed").unwrap_or_default();
                (error.code(), allowed.to_owned())
            };
            assert_eq!(
                outcome.err().map(allowed),
                max,
                "{size} {same_bucket} {same_class}"
            );
        }
    }

    #[test]
    fn a_source_must_be_named() {
        for (value, code) in [
            ("bucket", ErrorCode::InvalidArgument),
            ("/B/k", ErrorCode::InvalidBucketName),
            ("/bucket/k?versionId=x", ErrorCode::InvalidArgument),
        ] {
            assert_eq!(
                parse(&[("x-oss-copy-source", value)]).unwrap_err().code(),
                code
            );
        }
    }
}
