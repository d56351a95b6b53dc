//! GetSymlink: the link itself, and what it points to.

use granary_oss::escape;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ObjectKey, ObjectType};
use http::StatusCode;

use super::settings::find;
use super::version::describe;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct GetSymlink {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for GetSymlink {
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
        if version.object_type != ObjectType::Symlink.number() {
            return Err(OssError::new(ErrorCode::NotSymlink).extra("Key", self.key.as_str()));
        }
        let target = escape::encode_path(version.symlink_target.as_bytes());
        let mut output = Output::empty(StatusCode::OK);
        output.headers = describe(&version, cx.bucket()?);
        Ok(output.oss("x-oss-symlink-target", Some(target)))
    }
}
