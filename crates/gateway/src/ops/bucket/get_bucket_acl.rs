//! GetBucketAcl: who owns a bucket, and to whom it is open.

use granary_oss::OssError;
use granary_oss::xml::AccessControlPolicy;

use super::settings::newest;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketAcl;

impl Operation for GetBucketAcl {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let bucket = newest(cx).await?;
        let policy = AccessControlPolicy::of_bucket(cx.owner(bucket.owner), bucket.acl);
        Ok(Output::xml(policy.to_xml()))
    }
}
