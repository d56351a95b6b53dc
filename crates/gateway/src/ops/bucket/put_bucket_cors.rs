//! PutBucketCors: replaces the rules by which browsers may use a bucket from other sites.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::CorsConfiguration;
use granary_types::limits::CONFIG_BODY_BYTES_MAX;
use http::StatusCode;

use super::settings::change;
use crate::buckets::config;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct PutBucketCors;

impl Operation for PutBucketCors {
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
        let rules = CorsConfiguration::parse(&document(body))?;
        let document = Bytes::from(rules.to_xml());
        change(cx, |bucket_id| pb::SetBucketConfig {
            bucket_id,
            name: config::CORS.to_owned(),
            config: document.clone(),
        })
        .await?;
        Ok(Output::empty(StatusCode::OK))
    }
}
