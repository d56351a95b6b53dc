//! AbortMultipartUpload: ends an upload without an object; its parts are deleted.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::error::ec;
use http::StatusCode;

use super::upload::UploadRef;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct AbortMultipartUpload {
    upload: UploadRef,
}

impl Operation for AbortMultipartUpload {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            upload: UploadRef::parse(head, ec::NO_SUCH_UPLOAD_ABORT)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.upload.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let upload_id = self.upload.id()?;
        let decision = cx.propose_at(&self.upload.key, true, |at| pb::AbortUpload {
            at: Some(at),
            upload_id: upload_id.clone(),
        });
        decision
            .await?
            .map_err(|rejection| self.upload.rejected(&rejection))?;
        Ok(Output::empty(StatusCode::NO_CONTENT))
    }
}
