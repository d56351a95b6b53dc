//! PutBucketTags: replaces a bucket's tags.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::Tagging;
use granary_types::limits::CONFIG_BODY_BYTES_MAX;
use http::StatusCode;

use super::settings::change;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct PutBucketTags;

impl Operation for PutBucketTags {
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
        let tagging = Tagging::parse_bucket(&document(body))?;
        let tag = |(key, value)| pb::state::Tag { key, value };
        let tags: Vec<_> = tagging.tags.into_iter().map(tag).collect();
        change(cx, |bucket_id| pb::SetBucketTags {
            bucket_id,
            tags: tags.clone(),
            only_named: false,
        })
        .await?;
        Ok(Output::empty(StatusCode::OK))
    }
}
