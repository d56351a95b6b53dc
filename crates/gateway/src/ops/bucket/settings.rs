//! What the operations on a bucket's settings share.

use std::sync::Arc;

use granary_meta_api::{Command, pb};
use granary_oss::OssError;

use crate::buckets::Bucket;
use crate::ctx::Ctx;
use crate::failure;

/// The bucket as it is now: what a client has just changed through another gateway shows at once.
///
/// # Errors
/// NoSuchBucket, AccessDenied, ServiceUnavailable.
pub(super) async fn newest(cx: &mut Ctx) -> Result<Arc<Bucket>, OssError> {
    let seen = cx.bucket()?.clone();
    cx.bucket_has_changed(&seen).await?;
    cx.bucket().cloned()
}

/// Changes a setting that stands in the root. This gateway acts on it at once, others when their
/// view has aged.
///
/// # Errors
/// NoSuchBucket, ServiceUnavailable.
pub(super) async fn change<C>(
    cx: &Ctx,
    command: impl FnOnce(u64) -> C,
) -> Result<pb::state::Bucket, OssError>
where
    C: Command<Reply = pb::state::Bucket>,
{
    let bucket = cx.bucket()?;
    let decision = cx.shared.meta.propose(command(bucket.id.0)).await;
    cx.shared.buckets.forget(&bucket.name);
    decision
        .map_err(failure::of_meta)?
        .map_err(|rejection| failure::of_rejection(&rejection))
}
