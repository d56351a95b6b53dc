//! DeleteBucketCors: no other site may use the bucket any more. What is not there is deleted already.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_oss::OssError;
use http::StatusCode;

use super::settings::change;
use crate::buckets::config;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteBucketCors;

impl Operation for DeleteBucketCors {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        change(cx, |bucket_id| pb::SetBucketConfig {
            bucket_id,
            name: config::CORS.to_owned(),
            config: Bytes::new(),
        })
        .await?;
        Ok(Output::empty(StatusCode::NO_CONTENT))
    }
}
