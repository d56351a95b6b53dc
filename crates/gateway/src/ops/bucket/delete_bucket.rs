//! DeleteBucket: deletes an empty bucket. The metadata fences it first, so that nothing is committed
//! between the look and the deletion.

use std::sync::Arc;

use granary_meta_api::pb::rejection::Reason;
use granary_oss::OssError;
use granary_oss::error::ec;
use http::StatusCode;

use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteBucket;

impl Operation for DeleteBucket {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let seen = Arc::clone(cx.bucket()?);
        cx.bucket_has_changed(&seen).await?;
        let bucket = Arc::clone(cx.bucket()?);
        let decision = cx.shared.meta.delete_bucket(bucket.id).await;
        cx.shared.buckets.forget(&bucket.name);
        decision.map_err(failure::of_meta)?.map_err(|rejection| {
            let error = failure::of_rejection(&rejection).extra("BucketName", bucket.name.as_str());
            let has_uploads = rejection.detail.contains("upload");
            if rejection.reason() == Reason::BucketNotEmpty && has_uploads {
                return error
                    .message("The bucket has Multipart Uploads.")
                    .ec(ec::BUCKET_NOT_EMPTY);
            }
            error
        })?;
        Ok(Output::empty(StatusCode::NO_CONTENT))
    }
}
