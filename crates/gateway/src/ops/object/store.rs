//! Storing an object of one piece: what PutObject and PostObject have in common, in the steps that a
//! crash may come between.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::Stream;
use granary_datapath::{BodyError, BodyLimits, WriteError, Written};
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ETag, ObjectKey, ObjectType};
use http::header;

use super::Attributes;
use crate::buckets::Versioning;
use crate::callback::Upload;
use crate::ctx::Ctx;
use crate::failure;
use crate::hierarchy;
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// An object that is about to be stored.
#[derive(Debug)]
pub(crate) struct NewObject {
    pub(crate) key: ObjectKey,
    pub(crate) attributes: Attributes,
    /// Whether an object of that name may be there; means nothing once versioning was configured.
    pub(crate) forbid_overwrite: bool,
}

/// An object that is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) version: pb::state::Version,
    pub(crate) md5: [u8; 16],
    content_type: Option<String>,
    versioned: bool,
}

impl NewObject {
    /// Tells a client that may not overwrite, or asks a directory to keep attributes, so before it
    /// sends its bytes. The commit decides about overwriting.
    ///
    /// # Errors
    /// FileAlreadyExists, NotImplemented.
    pub(crate) async fn refuse_early(&self, cx: &mut Ctx) -> Result<(), OssError> {
        hierarchy::check_attributes(cx.bucket()?, &self.key, &self.attributes)?;
        match self.forbid_overwrite {
            true => refuse_early(cx, &self.key).await,
            false => Ok(()),
        }
    }

    /// Makes the bytes durable; they belong to nothing yet.
    ///
    /// # Errors
    /// What the body or the disks did.
    pub(crate) async fn write<S>(
        &self,
        cx: &mut Ctx,
        body: S,
        limits: BodyLimits,
    ) -> Result<Written, OssError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + Unpin,
    {
        let target = cx.write_target(&self.key, self.attributes.class_in(cx.bucket()?))?;
        let datapath = cx.shared.datapath.clone();
        match datapath.write(target, body, limits).await {
            Ok(written) => Ok(written),
            Err(error) => Err(write_failed(cx, error).await),
        }
    }

    /// Makes the bytes the object.
    ///
    /// # Errors
    /// What the cluster said.
    pub(crate) async fn commit(self, cx: &mut Ctx, written: Written) -> Result<Stored, OssError> {
        let version = pb::state::Version {
            object_type: ObjectType::Normal.number(),
            size: written.size,
            etag: ETag::from_md5(written.md5).as_str().to_owned(),
            crc64: written.crc64,
            has_crc64: true,
            ..self.attributes.to_version(cx.bucket()?, cx.object_owner()?)
        };
        let movable = is_inline(&written.payload);
        let decision = cx.propose_at(&self.key, movable, |at| pb::PutObject {
            at: Some(at),
            version: Some(version.clone()),
            payload: Some(written.payload.clone()),
            forbid_overwrite: self.forbid_overwrite,
        });
        let reply = decision
            .await?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        Ok(Stored {
            // A directory that was made keeps no digests; what is told of it are those of its nothing.
            version: pb::state::Version {
                etag: version.etag.clone(),
                crc64: version.crc64,
                has_crc64: true,
                ..reply.version.unwrap_or(version)
            },
            md5: written.md5,
            content_type: self.attributes.content_type().map(str::to_owned),
            versioned: cx.bucket()?.versioning != Versioning::Unset,
        })
    }
}

impl Stored {
    /// What a callback tells of it.
    pub(crate) fn upload<'a>(&'a self, operation: &'static str, key: &'a ObjectKey) -> Upload<'a> {
        Upload {
            operation,
            key,
            version: &self.version,
            content_type: self.content_type.as_deref(),
            md5: Some(self.md5),
        }
    }

    /// Adds what an answer says of the object.
    pub(crate) fn describe(&self, output: Output) -> Output {
        let version = &self.version;
        output
            .header(header::ETAG, &ETag::from_md5(self.md5).quoted())
            .oss("content-md5", Some(content_md5_header(self.md5)))
            .oss("x-oss-hash-crc64ecma", Some(version.crc64.to_string()))
            .oss(
                "x-oss-version-id",
                self.versioned.then(|| version_id::of(version)),
            )
    }
}

/// Refuses a write where an object is that may not be overwritten.
///
/// # Errors
/// FileAlreadyExists; those of looking the object up.
pub(crate) async fn refuse_early(cx: &mut Ctx, key: &ObjectKey) -> Result<(), OssError> {
    let found = cx.find_version(key, VersionRef::Current, false).await?;
    match found.and_then(|found| found.version) {
        Some(version) if !version.delete_marker => {
            Err(OssError::new(ErrorCode::FileAlreadyExists).extra("Key", key.as_str()))
        }
        _ => Ok(()),
    }
}

/// The answer to a write that failed. When the shard did not know this view of the bucket, the
/// bucket is looked up again: it may be gone, and if not, the client may repeat the request.
pub(crate) async fn write_failed(cx: &mut Ctx, error: WriteError) -> OssError {
    if let WriteError::Refused(rejection) = &error
        && matches!(
            rejection.reason(),
            Reason::StaleGeneration | Reason::NoSuchBucket
        )
    {
        let refreshed = match cx.bucket().cloned() {
            Ok(bucket) => cx.refresh_bucket(&bucket).await,
            Err(error) => Err(error),
        };
        return match refreshed {
            Ok(()) => OssError::new(ErrorCode::ServiceUnavailable).source(error),
            Err(gone) => gone,
        };
    }
    failure::of_write(error)
}

/// Whether a payload carries its bytes itself, so that any bucket can take it.
fn is_inline(payload: &pb::Payload) -> bool {
    payload.extents.is_empty() && payload.staged_extents == 0
}

/// The value of `Content-MD5`.
pub(crate) fn content_md5_header(md5: [u8; 16]) -> String {
    STANDARD.encode(md5)
}
