//! May they: gathers the facts that `granary-policy` needs and turns its answer into an error.
//!
//! The owner's requests, which are nearly all, need no look-up beyond the bucket's. For others the
//! object's own list is read; what was read is kept for the operation.
//!
//! Invariant: permission is for the bucket's id and not for its name. A shard that does not know the
//! view of the bucket answers as for an object that is not there, and knows no object by that id
//! later either; whoever goes on with a newer view asks here again.

use granary_meta_api::pb;
use granary_oss::error::ec;
use granary_oss::{ErrorCode, OssError};
use granary_policy::{Access, Action, BucketFacts, Caller, Decision, Facts, ObjectFacts, evaluate};
use granary_types::{ObjectAcl, ObjectKey};

use crate::buckets::Bucket;
use crate::ctx::{Ctx, Shared, Subject, find_version_in};
use crate::version_id::VersionRef;

/// Decides whether the request may go on.
///
/// # Errors
/// AccessDenied, BucketAlreadyExists (PutBucketAcl), ServiceUnavailable.
pub(crate) async fn authorise(cx: &mut Ctx) -> Result<(), OssError> {
    let bucket = match cx.subject {
        Subject::Service => None,
        Subject::Bucket | Subject::Object(..) => cx.bucket.as_deref(),
    };
    let mut facts = Facts {
        bucket: bucket.map(facts_of),
        object: None,
    };
    let mut decision = evaluate(cx.caller, cx.action, &facts);
    if decision == Decision::NeedsObject {
        let mut object = None;
        if let (Subject::Object(key, version), Some(bucket)) = (&cx.subject, bucket) {
            let answer = find_version_in(&cx.shared, bucket, key, *version, true).await?;
            object = answer
                .as_ref()
                .and_then(|answer| object_facts(answer.version.as_ref()));
            cx.found = answer;
        }
        facts.object = Some(object);
        decision = evaluate(cx.caller, cx.action, &facts);
    }
    if decision == Decision::Allow {
        Ok(())
    } else {
        Err(denied(cx.caller, cx.action))
    }
}

/// Finds an object and decides about it: the very version that was judged is the one to go on with.
/// `None` when the shard does not know this view of the bucket.
///
/// # Errors
/// AccessDenied, ServiceUnavailable.
pub(crate) async fn find_authorised(
    shared: &Shared,
    caller: Caller,
    action: Action,
    bucket: &Bucket,
    (key, version): (&ObjectKey, VersionRef),
    with_body: bool,
) -> Result<Option<pb::VersionResult>, OssError> {
    let mut facts = Facts {
        bucket: Some(facts_of(bucket)),
        object: None,
    };
    let mut decision = evaluate(caller, action, &facts);
    if decision == Decision::Deny {
        return Err(denied(caller, action));
    }
    let Some(answer) = find_version_in(shared, bucket, key, version, with_body).await? else {
        return Ok(None);
    };
    if decision == Decision::NeedsObject {
        facts.object = Some(object_facts(answer.version.as_ref()));
        decision = evaluate(caller, action, &facts);
    }
    match decision {
        Decision::Allow => Ok(Some(answer)),
        Decision::Deny | Decision::NeedsObject => Err(denied(caller, action)),
    }
}

/// Decides about one of the objects that DeleteMultipleObjects names.
///
/// # Errors
/// AccessDenied, ServiceUnavailable.
pub(crate) async fn authorise_object(
    shared: &Shared,
    caller: Caller,
    action: Action,
    bucket: &Bucket,
    key: &ObjectKey,
    version: VersionRef,
) -> Result<(), OssError> {
    let mut facts = Facts {
        bucket: Some(facts_of(bucket)),
        object: None,
    };
    let mut decision = evaluate(caller, action, &facts);
    if decision == Decision::NeedsObject {
        let answer = find_version_in(shared, bucket, key, version, false).await?;
        let version = answer.as_ref().and_then(|answer| answer.version.as_ref());
        facts.object = Some(object_facts(version));
        decision = evaluate(caller, action, &facts);
    }
    if decision == Decision::Allow {
        Ok(())
    } else {
        Err(denied(caller, action))
    }
}

/// Decides about a request that also reaches objects which it does not name, so that nobody asks
/// their own lists: only the bucket's owner may send it.
///
/// # Errors
/// AccessDenied.
pub(crate) fn authorise_owner(cx: &Ctx) -> Result<(), OssError> {
    let action = Action::new(cx.action.name(), Access::Owner);
    let facts = Facts {
        bucket: cx.bucket.as_deref().map(facts_of),
        object: None,
    };
    match evaluate(cx.caller, action, &facts) {
        Decision::Allow => Ok(()),
        Decision::Deny | Decision::NeedsObject => Err(denied(cx.caller, action)),
    }
}

fn facts_of(bucket: &Bucket) -> BucketFacts {
    BucketFacts {
        owner: bucket.owner,
        acl: bucket.acl,
    }
}

/// An ACL of a later version of Granary closes the object rather than opening it.
fn object_facts(version: Option<&pb::state::Version>) -> Option<ObjectFacts> {
    let version = version.filter(|version| !version.delete_marker)?;
    let acl = match version.acl {
        0 => ObjectAcl::Default,
        number => ObjectAcl::from_number(number).unwrap_or(ObjectAcl::Private),
    };
    Some(ObjectFacts { acl })
}

fn denied(caller: Caller, action: Action) -> OssError {
    let error = OssError::new(ErrorCode::AccessDenied);
    match (action.name(), action.access(), caller) {
        ("GetObjectAcl", ..) => error
            .message("You do not have read acl permission on this object.")
            .ec(ec::GET_OBJECT_ACL_DENIED),
        ("PutObjectAcl", ..) => error
            .message("You do not have write acl permission on this object.")
            .ec(ec::PUT_OBJECT_ACL_DENIED),
        // As if the caller wanted the name (asserted by the Java SDK's tests).
        ("PutBucketAcl", _, Caller::Account(_)) => OssError::new(ErrorCode::BucketAlreadyExists),
        (_, Access::Account, _) => {
            error.message("You have no right to access this service without a signature.")
        }
        (_, Access::Owner, Caller::Account(_)) => {
            error.message("The bucket you access does not belong to you.")
        }
        _ => error.message("You have no right to access this object because of bucket acl."),
    }
}
