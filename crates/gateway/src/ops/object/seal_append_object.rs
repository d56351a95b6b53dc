//! SealAppendObject: ends an appendable object. When that was stays the same however often it is said.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::header::date::format_http_date;
use granary_types::{ObjectKey, Timestamp};
use http::StatusCode;

use super::append_object::position;
use super::settings::shown_id;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct SealAppendObject {
    key: ObjectKey,
    position: u64,
}

impl Operation for SealAppendObject {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            position: position(head)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let decision = cx.propose_at(&self.key, true, |at| pb::SealObject {
            at: Some(at),
            position: self.position,
        });
        let reply = decision
            .await?
            .map_err(|no| failure::of_rejection(&no).extra("Key", self.key.as_str()))?;
        let sealed = reply.version.unwrap_or_default();
        let time = format_http_date(Timestamp(sealed.sealed_ms));
        let id = shown_id(cx, &sealed);
        Ok(Output::empty(StatusCode::OK)
            .oss("x-oss-sealed-time", Some(time))
            .oss("x-oss-version-id", id))
    }
}
