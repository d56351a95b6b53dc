//! What a bucket with a hierarchical namespace has that others have not, and what it lacks: the list of
//! the API's documentation ("List of supported API operations"). One place, for all operations.

use granary_oss::{ErrorCode, OssError};
use granary_types::{ObjectAcl, ObjectKey};

use crate::buckets::Bucket;
use crate::head::not_implemented;
use crate::ops::object::Attributes;

/// Operations that only such a bucket has.
const OWN: [&str; 3] = ["CreateDirectory", "Rename", "DeleteDirectory"];

/// Operations that it does not have.
const LACKING: &[&str] = &[
    "InitiateBucketWorm",
    "AbortBucketWorm",
    "CompleteBucketWorm",
    "ExtendBucketWorm",
    "GetBucketWorm",
    "PutBucketLifecycle",
    "GetBucketLifecycle",
    "DeleteBucketLifecycle",
    "PutBucketVersioning",
    "GetBucketVersioning",
    "ListObjectVersions",
    "PutBucketReplication",
    "PutBucketRTC",
    "GetBucketReplication",
    "GetBucketReplicationLocation",
    "GetBucketReplicationProgress",
    "DeleteBucketReplication",
    "PutBucketInventory",
    "GetBucketInventory",
    "ListBucketInventory",
    "DeleteBucketInventory",
    "PutBucketWebsite",
    "GetBucketWebsite",
    "DeleteBucketWebsite",
    "PutBucketCors",
    "GetBucketCors",
    "DeleteBucketCors",
    "AppendObject",
    "SealAppendObject",
    "DeleteMultipleObjects",
    "RestoreObject",
    "CleanRestoredObject",
    "SelectObject",
    "CreateSelectObjectMeta",
    "PutSymlink",
    "GetSymlink",
];

/// Refuses an operation that the bucket does not have.
///
/// # Errors
/// NotImplemented with the operation's name; InvalidArgument for a directory of a bucket that has
/// none, with the sentence that the service has for it.
pub(crate) fn check(bucket: Option<&Bucket>, operation: &str) -> Result<(), OssError> {
    let Some(bucket) = bucket else { return Ok(()) };
    if bucket.hierarchical && LACKING.contains(&operation) {
        return Err(OssError::new(ErrorCode::NotImplemented).message(format!(
            "The operation {operation} is not supported by a bucket with a hierarchical namespace."
        )));
    }
    if !bucket.hierarchical && OWN.contains(&operation) {
        return Err(OssError::new(ErrorCode::InvalidArgument)
            .message("Hierarchical namespace is disabled."));
    }
    Ok(())
}

/// Refuses what a write asks of a directory and it cannot keep. Where keys are paths, an empty object
/// under a name with a slash at its end is a directory, which has no attributes of its own. Content
/// headers, which clients send by themselves, are not meant.
///
/// # Errors
/// NotImplemented with the header's name.
pub(crate) fn check_attributes(
    bucket: &Bucket,
    key: &ObjectKey,
    attributes: &Attributes,
) -> Result<(), OssError> {
    if !bucket.hierarchical || !key.as_bytes().ends_with(b"/") {
        return Ok(());
    }
    let own_acl = attributes.acl.is_some_and(|acl| acl != ObjectAcl::Default);
    for (asked, name) in [
        (own_acl, "x-oss-object-acl"),
        (!attributes.user_meta.is_empty(), "x-oss-meta-*"),
        (!attributes.tags.is_empty(), "x-oss-tagging"),
    ] {
        if asked {
            return Err(not_implemented(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::table::ROWS;

    #[test]
    fn every_operation_named_here_is_one() {
        for name in OWN.iter().chain(LACKING) {
            assert!(ROWS.iter().any(|row| row.name == *name), "{name}");
        }
    }
}
