//! HeadObject: the headers of an object, without its bytes.

use granary_oss::OssError;
use granary_oss::header::Preconditions;
use granary_types::ObjectKey;
use http::StatusCode;

use super::version::{check_conditions, describe, existing};
use crate::body::Payload;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct HeadObject {
    key: ObjectKey,
    version: VersionRef,
    conditions: Preconditions,
}

impl Operation for HeadObject {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(&["x-oss-process"])?;
        Ok(Self {
            key: head.object_key()?,
            version: head.version()?,
            conditions: Preconditions::of_read(&head.headers),
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), self.version)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let found = cx.find_version(&self.key, self.version, false).await?;
        let (version, _) = existing(found, &self.key, self.version)?;
        check_conditions(&self.conditions, &version)?;
        Ok(Output {
            status: StatusCode::OK,
            headers: describe(&version, cx.bucket()?),
            payload: Payload::Empty,
            length: Some(version.size),
            traffic_limit: None,
        })
    }
}
