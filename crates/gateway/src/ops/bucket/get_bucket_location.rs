//! GetBucketLocation: the region of a bucket.

use granary_oss::OssError;
use granary_oss::xml::LocationConstraint;

use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketLocation;

impl Operation for GetBucketLocation {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let result = LocationConstraint {
            region: cx.shared.settings.region.clone(),
        };
        Ok(Output::xml(result.to_xml()))
    }
}
