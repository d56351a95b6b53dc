//! PutBucketAcl: opens a bucket to others, or closes it.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::header::bucket_acl;
use granary_types::BucketAcl;
use http::StatusCode;

use super::settings::change;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct PutBucketAcl {
    /// Without one the call changes nothing (API reference).
    acl: Option<BucketAcl>,
}

impl Operation for PutBucketAcl {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let acl = bucket_acl(&head.headers)?;
        Ok(Self { acl })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        if let Some(acl) = self.acl {
            let acl = acl.number();
            change(cx, |bucket_id| pb::SetBucketAcl { bucket_id, acl }).await?;
        }
        Ok(Output::empty(StatusCode::OK))
    }
}
