//! HeadBucket: whether the bucket exists, may be used, and where it is.

use granary_oss::OssError;
use http::StatusCode;

use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct HeadBucket;

impl Operation for HeadBucket {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let region = format!("oss-{}", cx.shared.settings.region);
        Ok(Output::empty(StatusCode::OK).oss("x-oss-bucket-region", Some(region)))
    }
}
