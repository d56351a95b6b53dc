//! PutBucketVersioning: from now on the bucket keeps what is overwritten and deleted, or no longer.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::VersioningConfiguration;
use granary_types::limits::CONFIG_BODY_BYTES_MAX;
use http::StatusCode;

use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct PutBucketVersioning;

impl Operation for PutBucketVersioning {
    const BODY: BodyKind = BodyKind::Buffered {
        max_bytes: CONFIG_BODY_BYTES_MAX,
    };

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let wanted = VersioningConfiguration::parse(&document(body))?;
        let bucket = cx.bucket()?;
        let command = pb::SetBucketVersioning {
            bucket_id: bucket.id.0,
            versioning: if wanted.enabled == Some(true) { 1 } else { 2 },
        };
        let decision = cx.shared.meta.set_bucket_versioning(command).await;
        cx.shared.buckets.forget(&bucket.name);
        decision
            .map_err(failure::of_meta)?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        Ok(Output::empty(StatusCode::OK))
    }
}
