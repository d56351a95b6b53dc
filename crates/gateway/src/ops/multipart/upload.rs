//! The upload that a request names, and the errors about it. An upload id is shown as the 32
//! hexadecimal digits of an object id; anything else names no upload.

use std::sync::Arc;

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::error::ec;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ObjectId, ObjectKey, StorageClass};

use crate::ctx::Ctx;
use crate::failure;
use crate::head::Head;

/// An upload as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UploadRef {
    pub(super) key: ObjectKey,
    /// `None` for a text that is no id of ours.
    id: Option<ObjectId>,
    text: String,
    /// The EC of NoSuchUpload differs between operations.
    ec: &'static str,
}

impl UploadRef {
    /// Reads key and `uploadId`.
    ///
    /// # Errors
    /// InvalidObjectName.
    pub(super) fn parse(head: &Head, ec: &'static str) -> Result<Self, OssError> {
        let text = head.query.get("uploadId").unwrap_or_default().to_owned();
        Ok(Self {
            key: head.object_key()?,
            id: parse_id(&text),
            text,
            ec,
        })
    }

    /// The id as commands carry it.
    ///
    /// # Errors
    /// NoSuchUpload.
    pub(super) fn id(&self) -> Result<Bytes, OssError> {
        let id = self.id.ok_or_else(|| self.no_such_upload())?;
        Ok(Bytes::copy_from_slice(&id.to_bytes()))
    }

    /// NoSuchUpload as this operation answers it.
    pub(super) fn no_such_upload(&self) -> OssError {
        let ec = match self.text.as_str() {
            "" => ec::UPLOAD_ID_MISSING,
            _ => self.ec,
        };
        OssError::new(ErrorCode::NoSuchUpload)
            .ec(ec)
            .extra("UploadId", self.text.as_str())
    }

    /// The upload, before any of its bytes are asked for.
    ///
    /// # Errors
    /// NoSuchUpload, ServiceUnavailable.
    pub(super) async fn find(&self, cx: &mut Ctx) -> Result<pb::state::Upload, OssError> {
        let upload_id = self.id()?;
        // An old view of the bucket looks like a missing upload: once more with a new one.
        for _ in 0..2 {
            let bucket = Arc::clone(cx.bucket()?);
            let query = pb::GetUpload {
                at: Some(bucket.position(&self.key)),
                upload_id: upload_id.clone(),
            };
            let answer = cx
                .shared
                .meta
                .query(query)
                .await
                .map_err(failure::of_meta)?;
            if let Some(upload) = answer.upload.filter(|_| answer.found) {
                return Ok(upload);
            }
            let name = bucket.name.clone();
            let fresh = cx
                .shared
                .buckets
                .find_now(&name)
                .await
                .map_err(failure::of_meta)?;
            if fresh.is_some_and(|fresh| *fresh == *bucket) {
                break;
            }
            cx.refresh_bucket(&bucket).await?;
        }
        Err(self.no_such_upload())
    }

    /// A rejection of a command about this upload.
    pub(super) fn rejected(&self, rejection: &pb::Rejection) -> OssError {
        match rejection.reason() {
            Reason::NoSuchUpload => self.no_such_upload(),
            _ => failure::of_rejection(rejection),
        }
    }
}

/// The class that the object of an upload will have.
pub(super) fn storage_class(upload: &pb::state::Upload) -> StorageClass {
    let template = upload.template.as_ref();
    let class = template.and_then(|t| StorageClass::from_number(t.storage_class));
    class.unwrap_or(StorageClass::Standard)
}

/// The id as answers show it.
pub(super) fn id_text(bytes: &[u8]) -> String {
    ObjectId::from_slice(bytes).unwrap_or_default().to_string()
}

/// Reads an id; `None` for a text that is none of ours.
pub(super) fn parse_id(text: &str) -> Option<ObjectId> {
    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok().map(ObjectId))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        let id = ObjectId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(parse_id(&id_text(&id.to_bytes())), Some(id));
        for bad in ["", "x", &"g".repeat(32), &"0".repeat(33), &"+".repeat(32)] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
