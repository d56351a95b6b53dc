//! Rename: gives an object or a directory, with all that is below it, another path in its bucket, at
//! once and as one change.
//!
//! What moves with its directory is not asked for an ACL of its own, so that only the bucket's owner
//! may rename a directory.

use bytes::Bytes;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{detail, pb};
use granary_oss::OssError;
use granary_oss::header::rename_source;
use granary_policy::{Access, Action};
use granary_types::ObjectKey;
use http::StatusCode;

use super::version::is_directory;
use crate::authz::authorise_owner;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// What the caller must be allowed to do with the source; with the new path: what the table says.
const DELETE: Action = Action::new("DeleteObject", Access::WriteObject);

/// The input.
#[derive(Debug)]
pub(crate) struct Rename {
    key: ObjectKey,
    source: ObjectKey,
}

impl Operation for Rename {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            key: head.object_key()?,
            source: rename_source(&head.headers)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        if let Err(denied) = authorise_owner(cx) {
            let found = cx.find_beside(&self.source, DELETE).await?;
            let moved = found.and_then(|found| found.version);
            if moved.is_some_and(|moved| is_directory(&moved)) {
                return Err(denied);
            }
        }
        let source = self.source.as_bytes();
        // Not for another bucket of the same name: there the source was not asked about.
        let decision = cx
            .propose_at(&self.key, false, |at| pb::RenameEntry {
                at: Some(at),
                source: Bytes::copy_from_slice(source),
            })
            .await?;
        decision.map_err(|no| {
            let missing = no.reason() == Reason::NoSuchKey && no.detail != detail::NO_PARENT;
            let key = if missing { &self.source } else { &self.key };
            failure::of_rejection(&no).extra("Key", key.as_str())
        })?;
        Ok(Output::empty(StatusCode::OK))
    }
}

#[cfg(test)]
mod tests {
    use granary_oss::ErrorCode;

    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_source_is_a_path_of_the_same_bucket() {
        let parse = |source: &[(&str, &str)]| {
            Rename::parse(&head(
                "POST",
                "localhost",
                "/bucket/new?x-oss-rename",
                source,
            ))
        };
        let named = parse(&[("x-oss-rename-source", "a%2Fb%20%23")]).unwrap();
        assert_eq!(
            (named.source.as_str(), named.key.as_str()),
            ("a/b #", "new")
        );
        let error = parse(&[]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        let error = parse(&[("x-oss-rename-source", "%2F%2Fa")]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidObjectName);
    }
}
