//! GetBucketTags: a bucket's tags; an empty set when it has none.

use granary_oss::OssError;
use granary_oss::xml::Tagging;

use super::settings::newest;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketTags;

impl Operation for GetBucketTags {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let tags = newest(cx).await?.tags.clone();
        Ok(Output::xml(Tagging { tags }.to_xml()))
    }
}
