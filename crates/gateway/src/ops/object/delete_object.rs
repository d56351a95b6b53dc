//! DeleteObject: removes an object, or one version of it. What is not there is deleted already.

use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::OssError;
use granary_types::ObjectKey;
use http::StatusCode;

use crate::buckets::Versioning;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::{self, VersionRef};

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteObject {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for DeleteObject {
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
        let version = self.version;
        let decision = cx
            .propose_at(&self.key, true, |at| command(at, version))
            .await?;
        let reply = outcome(decision)?;
        let id = cx
            .head
            .query
            .get("versionId")
            .map(str::to_owned)
            .or_else(|| match (reply.stamp, cx.bucket()) {
                (1.., Ok(bucket)) => marker_id(&reply, bucket.versioning),
                _ => None,
            });
        Ok(Output::empty(StatusCode::NO_CONTENT)
            .oss("x-oss-delete-marker", reply.delete_marker.then_some("true"))
            .oss("x-oss-version-id", id))
    }
}

/// The id of a marker that was made; a suspended bucket makes the null version.
pub(super) fn marker_id(reply: &pb::DeleteReply, versioning: Versioning) -> Option<String> {
    match versioning {
        Versioning::Unset => None,
        Versioning::Enabled => Some(version_id::of_stamp(reply.stamp)),
        Versioning::Suspended => Some("null".to_owned()),
    }
}

/// The command that deletes a version, or the current one.
pub(super) fn command(at: pb::Position, version: VersionRef) -> pb::DeleteObject {
    pb::DeleteObject {
        at: Some(at),
        version_stamp: version.stamp(),
        null_version: version.is_null(),
    }
}

/// What was deleted; nothing is as good as something.
pub(super) fn outcome(
    decision: Result<pb::DeleteReply, pb::Rejection>,
) -> Result<pb::DeleteReply, OssError> {
    match decision {
        Ok(reply) => Ok(reply),
        Err(rejection)
            if matches!(
                rejection.reason(),
                Reason::NoSuchKey | Reason::NoSuchVersion
            ) =>
        {
            Ok(pb::DeleteReply::default())
        }
        Err(rejection) => Err(failure::of_rejection(&rejection)),
    }
}
