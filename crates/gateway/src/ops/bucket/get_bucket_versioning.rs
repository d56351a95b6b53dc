//! GetBucketVersioning: whether a bucket keeps old versions.

use granary_oss::OssError;
use granary_oss::xml::VersioningConfiguration;

use super::settings::newest;
use crate::buckets::Versioning;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketVersioning;

impl Operation for GetBucketVersioning {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let enabled = match newest(cx).await?.versioning {
            Versioning::Unset => None,
            Versioning::Enabled => Some(true),
            Versioning::Suspended => Some(false),
        };
        Ok(Output::xml(VersioningConfiguration { enabled }.to_xml()))
    }
}
