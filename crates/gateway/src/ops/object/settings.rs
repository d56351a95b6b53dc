//! What the operations on an object's ACL and tags share: they act on one version, and on a link
//! itself.

use granary_meta_api::pb::state;
use granary_meta_api::{Command, pb};
use granary_oss::error::ec;
use granary_oss::{ErrorCode, OssError};
use granary_types::ObjectKey;

use super::version::existing;
use crate::buckets::Versioning;
use crate::ctx::Ctx;
use crate::failure;
use crate::version_id::{self, VersionRef};

/// Finds the version that a request names.
///
/// # Errors
/// NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker), ServiceUnavailable.
pub(super) async fn find(
    cx: &mut Ctx,
    key: &ObjectKey,
    version: VersionRef,
) -> Result<state::Version, OssError> {
    let found = cx.find_version(key, version, false).await?;
    existing(found, key, version).map(|(version, _)| version)
}

/// [`find`] for an operation on an ACL, which a delete marker has none of: the service tells that with
/// an EC of its own.
///
/// # Errors
/// As [`find`].
pub(super) async fn find_with_acl(
    cx: &mut Ctx,
    key: &ObjectKey,
    version: VersionRef,
) -> Result<state::Version, OssError> {
    let found = find(cx, key, version).await;
    found.map_err(|error| match error.code() {
        ErrorCode::MethodNotAllowed => error.ec(ec::ACL_OF_DELETE_MARKER),
        _ => error,
    })
}

/// Has a change of a version decided; the id to show, where versions have one.
///
/// # Errors
/// NoSuchKey, NoSuchVersion, ServiceUnavailable.
pub(super) async fn change<C>(
    cx: &mut Ctx,
    key: &ObjectKey,
    command: impl Fn(pb::Position) -> C + Send,
) -> Result<Option<String>, OssError>
where
    C: Command<Reply = pb::VersionReply>,
{
    let decision = cx.propose_at(key, true, command).await?;
    let reply = decision.map_err(|no| failure::of_rejection(&no).extra("Key", key.as_str()))?;
    Ok(reply.version.and_then(|version| shown_id(cx, &version)))
}

/// The id of a version as answers show it; `None` while the bucket never had versions.
pub(super) fn shown_id(cx: &Ctx, version: &state::Version) -> Option<String> {
    let versioned = cx
        .bucket()
        .is_ok_and(|bucket| bucket.versioning != Versioning::Unset);
    versioned.then(|| version_id::of(version))
}
