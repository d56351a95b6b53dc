//! GetObjectMeta: the few headers that identify an object; cheaper than HeadObject for clients that
//! only ask whether it changed. Some still send GET, as documents once had it: that answer has no body
//! either, and announces the object's length all the same, which those clients read.

use granary_oss::OssError;
use granary_oss::header::date::format_http_date;
use granary_types::{ObjectKey, Timestamp};
use http::StatusCode;

use super::version::{existing, identify};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct GetObjectMeta {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for GetObjectMeta {
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
        let found = cx.find_version(&self.key, self.version, false).await?;
        let (version, _) = existing(found, &self.key, self.version)?;
        let time = |millis: u64| (millis > 0).then(|| format_http_date(Timestamp(millis)));
        let mut output = Output::empty(StatusCode::OK)
            .oss("x-oss-transition-time", time(version.transition_ms))
            .oss("x-oss-last-access-time", time(version.accessed_ms));
        identify(&mut output.headers, &version, cx.bucket()?);
        output.length = Some(version.size);
        Ok(output)
    }
}
