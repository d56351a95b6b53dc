//! GetBucketCors: the rules by which browsers may use a bucket from other sites.

use granary_oss::{ErrorCode, OssError};

use super::settings::newest;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketCors;

impl Operation for GetBucketCors {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let bucket = newest(cx).await?;
        let none = || {
            OssError::new(ErrorCode::NoSuchCORSConfiguration)
                .extra("BucketName", bucket.name.as_str())
        };
        let rules = bucket.cors.as_ref().ok_or_else(none)?;
        Ok(Output::xml(rules.to_xml()))
    }
}
