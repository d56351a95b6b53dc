//! HeadObject: the headers of an object, without its bytes.

use granary_oss::OssError;
use granary_oss::header::Preconditions;
use granary_types::ObjectKey;
use http::StatusCode;

use super::link::Read;
use super::version::{check_conditions, existing};
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
        let (version, inline) = existing(found, &self.key, self.version)?;
        let read = Read::follow(cx, self.key, version, inline).await?;
        check_conditions(&self.conditions, &read.seen())?;
        Ok(Output {
            status: StatusCode::OK,
            headers: read.describe(cx)?,
            payload: Payload::Empty,
            length: Some(read.version.size),
            traffic_limit: None,
        })
    }
}
