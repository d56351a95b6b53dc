//! PutObjectAcl: opens one version of an object to others, or closes it.

use granary_meta_api::pb;
use granary_oss::error::ec;
use granary_oss::header::object_acl;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ObjectAcl, ObjectKey};
use http::StatusCode;

use super::settings::{change, find_with_acl};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct PutObjectAcl {
    key: ObjectKey,
    version: VersionRef,
    acl: ObjectAcl,
}

impl Operation for PutObjectAcl {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let missing = || {
            OssError::new(ErrorCode::MissingArgument)
                .ec(ec::OBJECT_ACL_MISSING)
                .extra("ArgumentName", "x-oss-object-acl")
        };
        Ok(Self {
            key: head.object_key()?,
            version: head.version()?,
            acl: object_acl(&head.headers)?.ok_or_else(missing)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), self.version)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self { key, version, acl } = self;
        find_with_acl(cx, &key, version).await?;
        let id = change(cx, &key, |at| pb::SetObjectAcl {
            at: Some(at),
            version_stamp: version.stamp(),
            null_version: version.is_null(),
            acl: acl.number(),
        })
        .await?;
        Ok(Output::empty(StatusCode::OK).oss("x-oss-version-id", id))
    }
}
