//! Sequential uploads: parts that come one after the other, so that the MD5 of the whole is known at
//! the end.
//!
//! Each part keeps the digest of everything up to its last byte, made on the one that the part before
//! has kept, and says which that was. Where a part is replaced by other bytes, those behind it have a
//! digest of something else: then the object has none, unless they are sent again too.

use bytes::Bytes;
use granary_datapath::RunningMd5;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_oss::OssError;

use super::upload::UploadRef;
use crate::ctx::Ctx;
use crate::failure;

/// The digest up to a part's beginning.
#[derive(Debug)]
pub(super) struct Before(RunningMd5);

impl Before {
    /// What a part of this number goes on from; `None` where parts come in any order, or where it is
    /// not known.
    ///
    /// # Errors
    /// PartNotSequential where the part before is missing, before any byte is asked for;
    /// NoSuchUpload, ServiceUnavailable.
    pub(super) async fn find(
        cx: &Ctx,
        upload: &UploadRef,
        record: &state::Upload,
        number: u32,
    ) -> Result<Option<Self>, OssError> {
        if !record.sequential {
            return Ok(None);
        }
        let Some(after) = number.checked_sub(2) else {
            return Ok(Some(Self(RunningMd5::default())));
        };
        let query = pb::ListParts {
            at: Some(cx.bucket()?.position(&upload.key)),
            upload_id: upload.id()?,
            after,
            limit: 1,
        };
        let page = cx
            .shared
            .meta
            .query(query)
            .await
            .map_err(failure::of_meta)?;
        if !page.found {
            return Err(upload.no_such_upload());
        }
        let mut parts = page.parts.into_iter();
        let Some(part) = parts.find(|part| part.number + 1 == number) else {
            let mut missing = pb::Rejection::of(Reason::PartNotSequential);
            missing.part_number = number;
            return Err(upload.rejected(&missing));
        };
        // Parts of before this was kept have none.
        let prefix = part.prefix.unwrap_or_default();
        Ok(RunningMd5::from_bytes(&prefix.md5_state).map(Self))
    }

    /// What the data path goes on from.
    pub(super) fn md5(&self) -> RunningMd5 {
        self.0.clone()
    }

    /// What the part keeps, of the digest with its bytes added.
    pub(super) fn prefix(&self, md5: &RunningMd5) -> state::PrefixDigest {
        state::PrefixDigest {
            before: Bytes::copy_from_slice(&self.0.digest()),
            md5_state: md5.to_bytes(),
            md5: Bytes::copy_from_slice(&md5.digest()),
        }
    }
}
