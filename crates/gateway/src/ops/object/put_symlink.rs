//! PutSymlink: makes an object that stands for another one of the bucket. Whether that one exists is
//! a question for whoever reads.

use granary_meta_api::pb;
use granary_oss::escape;
use granary_oss::{ErrorCode, OssError};
use granary_types::{ETag, ObjectKey, ObjectType};
use http::{StatusCode, header};
use md5::{Digest as _, Md5};

use super::settings::shown_id;
use super::{Attributes, CALLBACKS, forbids_overwrite};
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

const TARGET: &str = "x-oss-symlink-target";

/// The input.
#[derive(Debug)]
pub(crate) struct PutSymlink {
    key: ObjectKey,
    target: ObjectKey,
    attributes: Attributes,
}

impl Operation for PutSymlink {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(CALLBACKS)?;
        let missing = || OssError::new(ErrorCode::MissingArgument).extra("ArgumentName", TARGET);
        let named = head.text(TARGET).ok_or_else(missing)?;
        // As a query value: go v1 sends a space as a plus, and every SDK a plus as %2B.
        let target = String::from_utf8(escape::decode_query(&named)).ok();
        let target = target.and_then(|name| ObjectKey::try_from(name.as_str()).ok());
        let target = target.ok_or_else(|| {
            OssError::invalid_argument("The target is not the name of an object.", TARGET, named)
        })?;
        Ok(Self {
            key: head.object_key()?,
            target,
            attributes: Attributes::parse(head)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let forbid_overwrite = forbids_overwrite(&cx.head, cx.bucket()?)?;
        let etag = ETag::from_md5(Md5::digest(self.target.as_bytes()).into());
        let version = pb::state::Version {
            object_type: ObjectType::Symlink.number(),
            etag: etag.as_str().to_owned(),
            symlink_target: self.target.as_str().to_owned(),
            ..self.attributes.to_version(cx.bucket()?, cx.object_owner()?)
        };
        let decision = cx.propose_at(&self.key, true, |at| pb::PutObject {
            at: Some(at),
            version: Some(version.clone()),
            payload: Some(pb::Payload::default()),
            forbid_overwrite,
        });
        let reply = decision
            .await?
            .map_err(|rejection| failure::of_rejection(&rejection))?;
        let id = reply.version.and_then(|version| shown_id(cx, &version));
        Ok(Output::empty(StatusCode::OK)
            .header(header::ETAG, &etag.quoted())
            .oss("x-oss-version-id", id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_target_is_a_name_encoded_as_a_query_value() {
        let parse = |target: Option<&str>| {
            let headers: Vec<_> = target.iter().map(|target| (TARGET, *target)).collect();
            PutSymlink::parse(&head("PUT", "localhost", "/bucket/k?symlink", &headers))
        };
        for encoded in ["a%2Fb%20c%2B", "a%2Fb+c%2B", "a/b+c%2b"] {
            let link = parse(Some(encoded)).unwrap();
            assert_eq!(link.target.as_str(), "a/b c+", "{encoded}");
        }
        let long = "x".repeat(1024);
        for (target, code) in [
            (None, ErrorCode::MissingArgument),
            (Some("%FF"), ErrorCode::InvalidArgument),
            (Some("%2Fa"), ErrorCode::InvalidArgument),
            (Some(long.as_str()), ErrorCode::InvalidArgument),
        ] {
            assert_eq!(parse(target).unwrap_err().code(), code, "{target:?}");
        }
    }
}
