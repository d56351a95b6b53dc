//! CompleteMultipartUpload: makes the object of its parts. Only references move, no bytes.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::callback::Callback;
use granary_oss::error::ec;
use granary_oss::header::{object_acl, text};
use granary_oss::listing::encoding;
use granary_oss::xml::{
    CompleteMultipartUpload as Document, CompleteMultipartUploadResult, Encoding,
};
use granary_types::limits::COMPLETE_BODY_BYTES_MAX;
use granary_types::{ETag, ObjectAcl, ObjectKey};
use http::header;

use super::upload::UploadRef;
use crate::buckets::Versioning;
use crate::callback::{self, Upload};
use crate::ctx::{Ctx, Subject, find_version_in};
use crate::head::Head;
use crate::ops::object::{UNBUILT_IN_WRITES, content_md5, forbids_overwrite};
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// The input.
#[derive(Debug)]
pub(crate) struct CompleteMultipartUpload {
    upload: UploadRef,
    /// All parts there are, instead of a list.
    all: bool,
    acl: Option<ObjectAcl>,
    encoding: Encoding,
    callback: Option<Callback>,
}

impl Operation for CompleteMultipartUpload {
    const BODY: BodyKind = BodyKind::Buffered {
        max_bytes: COMPLETE_BODY_BYTES_MAX,
    };

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT_IN_WRITES)?;
        let all = match text(&head.headers, "x-oss-complete-all") {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("yes") => true,
            Some(value) => {
                return Err(OssError::invalid_argument(
                    "The value of x-oss-complete-all must be yes.",
                    "x-oss-complete-all",
                    value,
                ));
            }
        };
        Ok(Self {
            upload: UploadRef::parse(head, ec::NO_SUCH_UPLOAD_COMPLETE)?,
            all,
            acl: object_acl(&head.headers)?,
            encoding: encoding(&head.query)?,
            callback: Callback::of_request(&head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.upload.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let parts = self.parts(&document(body))?;
        cx.shared.callbacks.check(self.callback.as_ref())?;
        let forbid_overwrite = forbids_overwrite(&cx.head, cx.bucket()?)?;
        let Self {
            upload,
            all,
            acl,
            encoding,
            callback,
        } = self;
        let upload_id = upload.id()?;
        let decision = cx.propose_at(&upload.key, true, |at| pb::CompleteUpload {
            at: Some(at),
            upload_id: upload_id.clone(),
            parts: parts.clone(),
            all,
            forbid_overwrite,
            acl: acl.map_or(0, ObjectAcl::number),
        });
        let reply = decision
            .await?
            .map_err(|rejection| upload.rejected(&rejection))?;
        let version = reply.version.unwrap_or_default();
        let etag = ETag::parse(&version.etag);
        let bucket = cx.bucket()?;
        let versioned = bucket.versioning != Versioning::Unset;
        let result = CompleteMultipartUploadResult {
            location: cx.object_url(bucket.name.as_str(), &upload.key),
            bucket: bucket.name.as_str().to_owned(),
            key: upload.key.as_str().to_owned(),
            etag: etag.clone(),
            encoding,
        };
        let output = Output::xml(result.to_xml())
            .header(header::ETAG, &etag.quoted())
            .oss("content-md5", content_md5(&version))
            .oss(
                "x-oss-hash-crc64ecma",
                version.has_crc64.then(|| version.crc64.to_string()),
            )
            .oss(
                "x-oss-version-id",
                versioned.then(|| version_id::of(&version)),
            );
        let content_type = match callback {
            Some(_) => content_type(cx, &upload.key, &version).await,
            None => None,
        };
        let upload = Upload {
            operation: "CompleteMultipartUpload",
            key: &upload.key,
            version: &version,
            content_type: content_type.as_deref(),
            md5: None,
        };
        callback::finish(cx, callback, upload, output).await
    }
}

impl CompleteMultipartUpload {
    /// The parts that the body lists.
    fn parts(&self, body: &[u8]) -> Result<Vec<pb::CompletePart>, OssError> {
        if self.all {
            return if body.is_empty() {
                Ok(Vec::new())
            } else {
                Err(OssError::invalid_argument(
                    "Should not specify both complete all header and http body.",
                    "x-oss-complete-all",
                    "yes",
                )
                .ec(ec::COMPLETE_ALL_WITH_BODY))
            };
        }
        let parts = Document::parse(body)?.parts;
        let part = |part: granary_oss::xml::CompletedPart| pb::CompletePart {
            number: part.number,
            etag: part.etag.as_str().to_owned(),
        };
        Ok(parts.into_iter().map(part).collect())
    }
}

/// The type that the object got when its upload began, for a callback; `None` also when the object is
/// not there any more, since what was stored stays stored.
async fn content_type(cx: &Ctx, key: &ObjectKey, version: &pb::state::Version) -> Option<String> {
    let reference = VersionRef::parse(Some(&version_id::of(version))).ok()?;
    let found = find_version_in(&cx.shared, cx.bucket().ok()?, key, reference, false).await;
    let found = found.ok()??.version?;
    let mut headers = found.headers.into_iter();
    (found.stamp == version.stamp)
        .then(|| headers.find(|header| header.name == header::CONTENT_TYPE.as_str()))?
        .map(|header| header.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;
    use granary_oss::ErrorCode;

    fn parse(headers: &[(&str, &str)]) -> Result<CompleteMultipartUpload, OssError> {
        let target = format!("/bucket/k?uploadId={}", "0".repeat(32));
        CompleteMultipartUpload::parse(&head("POST", "localhost", &target, headers))
    }

    #[test]
    fn all_or_a_list_but_not_both() {
        let all = parse(&[("x-oss-complete-all", "yes")]).unwrap();
        assert_eq!(all.parts(b"").unwrap(), []);
        let error = all.parts(b"<CompleteMultipartUpload/>").unwrap_err();
        assert_eq!(
            (error.code(), error.ec_text()),
            (ErrorCode::InvalidArgument, "0042-00000216")
        );
        assert!(parse(&[("x-oss-complete-all", "no")]).is_err());
        let listed = parse(&[]).unwrap();
        assert_eq!(listed.parts(b"<CompleteMultipartUpload/>").unwrap(), []);
        assert_eq!(
            listed.parts(b"").unwrap_err().code(),
            ErrorCode::MalformedXML
        );
    }
}
