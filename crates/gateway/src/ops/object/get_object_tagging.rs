//! GetObjectTagging: the tags of one version of an object.

use granary_oss::OssError;
use granary_oss::xml::Tagging;
use granary_types::ObjectKey;

use super::Attributes;
use super::settings::{find, shown_id};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct GetObjectTagging {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for GetObjectTagging {
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
        let version = find(cx, &self.key, self.version).await?;
        let tags = Attributes::of_version(&version).tags;
        let id = shown_id(cx, &version);
        Ok(Output::xml(Tagging { tags }.to_xml()).oss("x-oss-version-id", id))
    }
}
