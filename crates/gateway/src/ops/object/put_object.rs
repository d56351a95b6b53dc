//! PutObject: stores an object in one piece, replacing the one of that name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_datapath::{BodyLimits, WriteError};
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::header::{content_length, content_md5, traffic_limit};
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::PUT_BYTES_MAX;
use granary_types::{ETag, ObjectKey, ObjectType};
use http::{StatusCode, header};

use super::{Attributes, forbids_overwrite};
use crate::body::check_md5;
use crate::buckets::Versioning;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// The input.
#[derive(Debug)]
pub(crate) struct PutObject {
    key: ObjectKey,
    attributes: Attributes,
    md5: Option<[u8; 16]>,
    limits: BodyLimits,
    traffic_limit: Option<u64>,
}

impl Operation for PutObject {
    const BODY: BodyKind = BodyKind::Stream;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            attributes: Attributes::parse(head)?,
            md5: content_md5(&head.headers)?,
            limits: body_limits(head)?,
            traffic_limit: traffic_limit(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let Self {
            key,
            attributes,
            md5,
            limits,
            traffic_limit,
        } = self;
        let forbid_overwrite = forbids_overwrite(&cx.head, cx.bucket()?)?;
        if forbid_overwrite {
            refuse_early(cx, &key).await?;
        }
        let Body::Stream(body) = body else {
            return Err(OssError::new(ErrorCode::InternalError).source("no body to read"));
        };
        body.pace(traffic_limit);
        // 1. The bytes become durable, but belong to nothing.
        let target = cx.write_target(&key, attributes.class_in(cx.bucket()?))?;
        let datapath = cx.shared.datapath.clone();
        let written = match datapath.write(target, body, limits).await {
            Ok(written) => written,
            Err(error) => return Err(write_failed(cx, error).await),
        };
        check_md5(md5, || written.md5)?;
        // 2. The commit makes them the object.
        let version = pb::state::Version {
            object_type: ObjectType::Normal.number(),
            size: written.size,
            etag: ETag::from_md5(written.md5).as_str().to_owned(),
            crc64: written.crc64,
            has_crc64: true,
            ..attributes.to_version(cx.bucket()?, cx.object_owner()?)
        };
        let movable = is_inline(&written.payload);
        let decision = cx.propose_at(&key, movable, |at| pb::PutObject {
            at: Some(at),
            version: Some(version.clone()),
            payload: Some(written.payload.clone()),
            forbid_overwrite,
        });
        let reply = decision
            .await?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        let stored = reply.version.unwrap_or(version);
        let versioned = cx.bucket()?.versioning != Versioning::Unset;
        Ok(Output::empty(StatusCode::OK)
            .header(header::ETAG, &ETag::from_md5(written.md5).quoted())
            .oss("content-md5", Some(content_md5_header(written.md5)))
            .oss("x-oss-hash-crc64ecma", Some(written.crc64.to_string()))
            .oss(
                "x-oss-version-id",
                versioned.then(|| version_id::of(&stored)),
            ))
    }
}

/// Tells a client that may not overwrite so before it sends its bytes. The commit decides.
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

/// The length a body may and must have.
///
/// # Errors
/// MissingContentLength for a body that is neither counted nor chunked; EntityTooLarge;
/// InvalidArgument.
pub(crate) fn body_limits(head: &Head) -> Result<BodyLimits, OssError> {
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    let declared_length = match (content_length(&head.headers)?, chunked) {
        // Chunks win over a length, as they do in the framing.
        (_, true) => None,
        (Some(length), false) => Some(length),
        (None, false) => return Err(OssError::new(ErrorCode::MissingContentLength)),
    };
    if declared_length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(OssError::new(ErrorCode::EntityTooLarge)
            .extra("MaxSizeAllowed", PUT_BYTES_MAX.to_string()));
    }
    Ok(BodyLimits {
        declared_length,
        max_bytes: PUT_BYTES_MAX,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_head_is_checked_before_the_body() {
        let parse = |headers: &[(&str, &str)]| {
            PutObject::parse(&head("PUT", "localhost", "/bucket/k", headers))
        };
        let put = parse(&[
            ("content-length", "5"),
            ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ]);
        let put = put.unwrap();
        assert_eq!(put.limits.declared_length, Some(5));
        assert!(put.md5.is_some());
        let chunked = parse(&[("transfer-encoding", "chunked")]).unwrap();
        assert_eq!(chunked.limits.declared_length, None);
        for (headers, code) in [
            (&[][..], ErrorCode::MissingContentLength),
            (
                &[("content-length", "5368709121")][..],
                ErrorCode::EntityTooLarge,
            ),
            (
                &[("content-length", "1"), ("content-md5", "x")][..],
                ErrorCode::InvalidDigest,
            ),
        ] {
            assert_eq!(parse(headers).unwrap_err().code(), code);
        }
    }
}
