//! DeleteBucketTags: removes a bucket's tags, or those that are named.

use granary_meta_api::pb;
use granary_oss::OssError;
use http::StatusCode;

use super::settings::change;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteBucketTags {
    /// Keys to remove; none: all.
    keys: Vec<String>,
}

impl Operation for DeleteBucketTags {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let named = head.query.get("tagging").unwrap_or_default();
        let keys = named.split(',').filter(|key| !key.is_empty());
        let keys = keys.map(str::to_owned).collect();
        Ok(Self { keys })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let only_named = !self.keys.is_empty();
        let tag = |key| pb::state::Tag {
            key,
            value: String::new(),
        };
        let tags: Vec<_> = self.keys.into_iter().map(tag).collect();
        change(cx, |bucket_id| pb::SetBucketTags {
            bucket_id,
            tags: tags.clone(),
            only_named,
        })
        .await?;
        Ok(Output::empty(StatusCode::NO_CONTENT))
    }
}
