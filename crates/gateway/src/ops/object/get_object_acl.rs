//! GetObjectAcl: who owns an object, and to whom it is open.

use granary_oss::OssError;
use granary_oss::xml::AccessControlPolicy;
use granary_types::{AccountId, ObjectAcl, ObjectKey};

use super::settings::{find_with_acl, shown_id};
use super::version::refuse_directory;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// The input.
#[derive(Debug)]
pub(crate) struct GetObjectAcl {
    key: ObjectKey,
    version: VersionRef,
}

impl Operation for GetObjectAcl {
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
        let version = find_with_acl(cx, &self.key, self.version).await?;
        refuse_directory(&version, &self.key)?;
        let acl = ObjectAcl::from_number(version.acl).unwrap_or(ObjectAcl::Default);
        let owner = cx.owner(AccountId(version.owner));
        let policy = AccessControlPolicy::of_object(owner, acl);
        Ok(Output::xml(policy.to_xml()).oss("x-oss-version-id", shown_id(cx, &version)))
    }
}
