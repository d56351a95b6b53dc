//! DeleteMultipleObjects: up to 1000 deletions in one request, each decided on its own.
//!
//! Permission for all of them comes first: a caller who may not delete one of them deletes none, unless
//! that changes while the others are being deleted. The
//! deletions are independent commands with bounded concurrency, so their shards decide them in few
//! log entries. One that cannot be decided fails the request; repeating it is harmless.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::error::ec;
use granary_oss::listing::encoding;
use granary_oss::xml::{Delete, DeleteResult, DeletedObject, Encoding};
use granary_oss::{ErrorCode, OssError};
use granary_types::ObjectKey;
use granary_types::limits::DELETE_OBJECTS_BODY_BYTES_MAX;
use http::StatusCode;

use super::delete_object::{command, marker_id, outcome};
use crate::authz::authorise_object;
use crate::buckets::Versioning;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::pipeline::document;
use crate::render::Output;
use crate::version_id::VersionRef;

/// Look-ups, and then deletions, of one request that are under way at once.
const CONCURRENT: usize = 64;

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteMultipleObjects {
    encoding: Encoding,
}

impl Operation for DeleteMultipleObjects {
    const BODY: BodyKind = BodyKind::Buffered {
        max_bytes: DELETE_OBJECTS_BODY_BYTES_MAX,
    };

    fn parse(head: &Head) -> Result<Self, OssError> {
        if head.text("content-md5").is_none() {
            return Err(OssError::new(ErrorCode::MissingArgument)
                .ec(ec::DELETE_WITHOUT_MD5)
                .extra("ArgumentName", "Content-MD5"));
        }
        Ok(Self {
            encoding: encoding(&head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let Delete { quiet, objects } = Delete::parse(&document(body))?;
        let mut targets = Vec::with_capacity(objects.len());
        for object in objects {
            let version = VersionRef::parse(object.version_id.as_deref())?;
            targets.push(Target {
                key: object.key,
                version,
                version_id: object.version_id,
            });
        }
        let replies = delete_all(cx, &targets).await?;
        if quiet {
            return Ok(Output::empty(StatusCode::OK));
        }
        let versioning = cx.bucket()?.versioning;
        let deleted = targets.into_iter().zip(replies);
        let deleted = deleted.map(|(target, reply)| describe(target, &reply, versioning));
        let deleted = deleted.collect();
        let result = DeleteResult {
            encoding: self.encoding,
            deleted,
        };
        Ok(Output::xml(result.to_xml()))
    }
}

struct Target {
    key: ObjectKey,
    version: VersionRef,
    version_id: Option<String>,
}

/// Deletes every target, in any order; the replies stand in the order of the targets.
async fn delete_all(cx: &mut Ctx, targets: &[Target]) -> Result<Vec<pb::DeleteReply>, OssError> {
    let (shared, bucket) = (Arc::clone(&cx.shared), Arc::clone(cx.bucket()?));
    let (caller, action) = (cx.caller, cx.action);
    let each: Vec<_> = targets.iter().map(|t| (t.key.clone(), t.version)).collect();
    stream::iter(each.clone())
        .map(|(key, version)| {
            let (shared, bucket) = (Arc::clone(&shared), Arc::clone(&bucket));
            async move {
                // As it is now: the document may have been on its way for long.
                let bucket = shared.newest(caller, &bucket).await?;
                authorise_object(&shared, caller, action, &bucket, &key, version).await
            }
        })
        .buffered(CONCURRENT)
        .try_for_each(|()| future::ready(Ok(())))
        .await?;
    let mut asked = HashSet::new();
    let decisions: Vec<_> = stream::iter(each)
        .map(|(key, version)| {
            let (shared, bucket) = (Arc::clone(&shared), Arc::clone(&bucket));
            let first = asked.insert((key.clone(), version));
            async move {
                // Once more: many deletions may lie between the first answer and this one. Not of one that
                // this request itself has deleted.
                let bucket = shared.newest(caller, &bucket).await?;
                if first {
                    authorise_object(&shared, caller, action, &bucket, &key, version).await?;
                }
                let command = command(bucket.position(&key), version);
                shared.meta.propose(command).await.map_err(failure::of_meta)
            }
        })
        .buffered(CONCURRENT)
        .try_collect()
        .await?;
    let mut replies = Vec::with_capacity(targets.len());
    for (target, decision) in targets.iter().zip(decisions) {
        let decision = match decision {
            // An old view of the bucket: this one alone, with all the retries.
            Err(rejection)
                if matches!(
                    rejection.reason(),
                    Reason::StaleGeneration | Reason::NoSuchBucket
                ) =>
            {
                // Each of them asks for permission again: the bucket of this name may be another one by now.
                cx.subject = Subject::Object(target.key.clone(), target.version);
                cx.propose_at(&target.key, true, |at| command(at, target.version))
                    .await?
            }
            decision => decision,
        };
        replies.push(outcome(decision)?);
    }
    Ok(replies)
}

fn describe(target: Target, reply: &pb::DeleteReply, versioning: Versioning) -> DeletedObject {
    let marker = match (&target.version_id, reply.delete_marker, reply.stamp) {
        (Some(id), true, _) => Some(id.clone()),
        (None, true, stamp) if stamp > 0 => marker_id(reply, versioning),
        _ => None,
    };
    DeletedObject {
        key: target.key.into_string(),
        version_id: target.version_id,
        delete_marker: reply.delete_marker,
        delete_marker_version_id: marker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_digest_is_required() {
        let parse = |headers: &[(&str, &str)]| {
            let head = head(
                "POST",
                "localhost",
                "/bucket/?delete&encoding-type=url",
                headers,
            );
            DeleteMultipleObjects::parse(&head)
        };
        let error = parse(&[]).unwrap_err();
        assert_eq!(
            (error.code(), error.ec_text()),
            (ErrorCode::MissingArgument, "0016-00000606")
        );
        assert_eq!(
            parse(&[("content-md5", "x")]).unwrap().encoding,
            Encoding::Url
        );
    }
}
