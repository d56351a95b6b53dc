//! DeleteObjectTagging: removes all tags of one version of an object.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_types::ObjectKey;
use http::StatusCode;

use super::settings::{change, find};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteObjectTagging {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for DeleteObjectTagging {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            version: head.version()?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), self.version)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self { key, version } = self;
        find(cx, &key, version).await?;
        let id = change(cx, &key, |at| pb::SetObjectTags {
            at: Some(at),
            version_stamp: version.stamp(),
            null_version: version.is_null(),
            tags: Vec::new(),
        })
        .await?;
        Ok(Output::empty(StatusCode::NO_CONTENT).oss("x-oss-version-id", id))
    }
}
