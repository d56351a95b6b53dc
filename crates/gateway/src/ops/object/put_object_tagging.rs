//! PutObjectTagging: replaces the tags of one version of an object; its time stays as it is.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::Tagging;
use granary_types::ObjectKey;
use granary_types::limits::CONFIG_BODY_BYTES_MAX;
use http::StatusCode;

use super::Attributes;
use super::settings::{change, find};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct PutObjectTagging {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for PutObjectTagging {
    const BODY: BodyKind = BodyKind::Buffered {
        max_bytes: CONFIG_BODY_BYTES_MAX,
    };

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            version: head.version()?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), self.version)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let Self { key, version } = self;
        let tags = Tagging::parse_object(&document(body))?.tags;
        let found = find(cx, &key, version).await?;
        // The record has room for so much beside the rest.
        let mut attributes = Attributes::of_version(&found);
        attributes.tags.clone_from(&tags);
        attributes.check_size()?;
        let tag = |(key, value)| pb::state::Tag { key, value };
        let tags: Vec<_> = tags.into_iter().map(tag).collect();
        let id = change(cx, &key, |at| pb::SetObjectTags {
            at: Some(at),
            version_stamp: version.stamp(),
            null_version: version.is_null(),
            tags: tags.clone(),
        })
        .await?;
        Ok(Output::empty(StatusCode::OK).oss("x-oss-version-id", id))
    }
}
