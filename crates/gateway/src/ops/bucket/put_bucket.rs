//! PutBucket: creates a bucket, or changes the ACL of one that the caller owns already.

use crate::config::DefaultRedundancy;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_oss::header::{bucket_acl, redundancy, resource_group, storage_class};
use granary_oss::xml::CreateBucketConfiguration;
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::{BUCKETS_PER_ACCOUNT_MAX, CONFIG_BODY_BYTES_MAX};
use granary_types::{BucketAcl, BucketName, Redundancy, StorageClass};
use http::{StatusCode, header};

use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::{Head, not_implemented};
use crate::ops::object::checked_class;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::pipeline::document;
use crate::render::Output;

const HNS_STATUS: &str = "x-oss-hns-status";
/// The feature level from which on the metadata knows directories.
const DIRECTORIES: u64 = 4;
/// Headers that would make another kind of bucket.
const UNBUILT: &[&str] = &[
    "x-oss-server-side-encryption",
    "x-oss-server-side-encryption-key-id",
    "x-oss-server-side-data-encryption",
    "x-oss-bucket-tagging",
    "x-oss-bucket-object-worm-enabled",
];

/// The input.
#[derive(Debug)]
pub(crate) struct PutBucket {
    name: BucketName,
    acl: Option<BucketAcl>,
    storage_class: Option<StorageClass>,
    redundancy: Option<Redundancy>,
    hierarchical: Option<bool>,
    resource_group: String,
}

impl Operation for PutBucket {
    const BODY: BodyKind = BodyKind::Buffered {
        max_bytes: CONFIG_BODY_BYTES_MAX,
    };
    const BUCKET: BucketUse = BucketUse::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT)?;
        Ok(Self {
            name: head.bucket_name()?,
            acl: bucket_acl(&head.headers)?,
            storage_class: storage_class(&head.headers)?,
            redundancy: redundancy(&head.headers)?,
            hierarchical: hierarchical(head)?,
            resource_group: resource_group(&head.headers)?.unwrap_or_default(),
        })
    }

    fn subject(&self) -> Subject {
        Subject::Service
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let wanted = CreateBucketConfiguration::parse(&document(body))?;
        check_location(
            wanted.location_constraint.as_deref(),
            &cx.shared.settings.region,
        )?;
        let bucket = self.record(cx, &wanted).await?;
        let command = pb::CreateBucket {
            bucket: Some(bucket),
            buckets_max: u32::try_from(BUCKETS_PER_ACCOUNT_MAX).unwrap_or(u32::MAX),
            acl_given: self.acl.is_some(),
        };
        let decision = cx.shared.meta.create_bucket(command).await;
        cx.shared.buckets.forget(&self.name);
        decision
            .map_err(failure::of_meta)?
            .map_err(|rejection| rejected(&rejection, &self.name))?;
        let location = format!("/{}", self.name);
        Ok(Output::empty(StatusCode::OK).header(header::LOCATION, &location))
    }
}

impl PutBucket {
    /// The bucket to create. What the request leaves open is as it is when the caller owns the
    /// bucket already, and the default otherwise.
    async fn record(
        &self,
        cx: &Ctx,
        wanted: &CreateBucketConfiguration,
    ) -> Result<pb::state::Bucket, OssError> {
        let views = &cx.shared.buckets;
        let existing = views.find_now(&self.name).await.map_err(failure::of_meta)?;
        let existing = existing.filter(|bucket| Some(bucket.owner) == cx.caller.account());
        let class = wanted
            .storage_class
            .or(self.storage_class)
            .map(checked_class)
            .transpose()?;
        let class = class.or(existing.as_ref().map(|bucket| bucket.storage_class));
        let redundancy = wanted.redundancy.or(self.redundancy);
        let known = existing.as_ref().map(|bucket| bucket.redundancy);
        if let Some(asked) = redundancy
            && known != Some(asked)
        {
            check_honoured(cx, asked)?;
        }
        let known_kind = existing.as_ref().map(|bucket| bucket.hierarchical);
        if self.hierarchical == Some(true) && known_kind != Some(true) {
            check_activated(cx).await?;
        }
        let redundancy = match redundancy.or(known) {
            Some(redundancy) => redundancy,
            None => default_redundancy(cx)?,
        };
        Ok(pb::state::Bucket {
            name: self.name.as_str().to_owned(),
            owner: cx.account().0,
            storage_class: class.unwrap_or(StorageClass::Standard).number(),
            redundancy: redundancy.number(),
            acl: self.acl.unwrap_or(BucketAcl::Private).number(),
            resource_group: self.resource_group.clone(),
            hierarchical: self.hierarchical.or(known_kind).unwrap_or(false),
            ..pb::state::Bucket::default()
        })
    }
}

/// Whether directories are asked for.
fn hierarchical(head: &Head) -> Result<Option<bool>, OssError> {
    match head.text(HNS_STATUS).as_deref() {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(OssError::invalid_argument(
            "It is either enabled or disabled.",
            HNS_STATUS,
            other,
        )),
    }
}

/// Refuses a bucket with directories as long as a metadata node may run a version that has none.
async fn check_activated(cx: &Ctx) -> Result<(), OssError> {
    let map = cx.shared.meta.query(pb::GetClusterMap { known_epoch: 0 });
    let map = map.await.map_err(failure::of_meta)?;
    match map
        .info
        .is_some_and(|info| info.feature_level >= DIRECTORIES)
    {
        true => Ok(()),
        false => Err(not_implemented(HNS_STATUS)),
    }
}

/// What a bucket gets that asks for nothing. What the operator has set is a promise, too.
fn default_redundancy(cx: &Ctx) -> Result<Redundancy, OssError> {
    let set = match cx.shared.settings.default_redundancy {
        DefaultRedundancy::Lrs => Redundancy::Lrs,
        DefaultRedundancy::Zrs => Redundancy::Zrs,
        DefaultRedundancy::Auto => {
            let zones = cx.shared.datapath.honours(Redundancy::Zrs);
            return Ok(if zones {
                Redundancy::Zrs
            } else {
                Redundancy::Lrs
            });
        }
    };
    check_honoured(cx, set)?;
    Ok(set)
}

/// Refuses a promise that the nodes of the cluster cannot keep.
fn check_honoured(cx: &Ctx, redundancy: Redundancy) -> Result<(), OssError> {
    if cx.shared.datapath.honours(redundancy) {
        return Ok(());
    }
    let why = match redundancy {
        Redundancy::Lrs => "LRS needs three storage nodes in one zone, which this cluster lacks.",
        Redundancy::Zrs => "ZRS needs storage nodes in three zones, which this cluster lacks.",
    };
    Err(OssError::invalid_argument(
        why,
        "DataRedundancyType",
        redundancy.as_str(),
    ))
}

fn rejected(rejection: &pb::Rejection, name: &BucketName) -> OssError {
    let error = failure::of_rejection(rejection).extra("BucketName", name.as_str());
    match rejection.reason() {
        Reason::BucketExistsOtherConfig => {
            error.message("The bucket exists with another storage class, redundancy or namespace.")
        }
        _ => error,
    }
}

/// The region may be named with its prefix, as documents do, or without.
fn check_location(wanted: Option<&str>, region: &str) -> Result<(), OssError> {
    let wanted = wanted.unwrap_or_default();
    let id = wanted.strip_prefix("oss-").unwrap_or(wanted);
    if wanted.is_empty() || id == region {
        return Ok(());
    }
    Err(OssError::new(ErrorCode::InvalidLocationConstraint).extra("LocationConstraint", wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn locations() {
        for ok in [None, Some(""), Some("oss-cn-x"), Some("cn-x")] {
            assert!(check_location(ok, "cn-x").is_ok(), "{ok:?}");
        }
        let error = check_location(Some("oss-cn-y"), "cn-x").unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidLocationConstraint);
    }

    #[test]
    fn other_kinds_of_buckets_are_not_made_by_accident() {
        for (name, value, code) in [
            ("x-oss-hns-status", "Enabled", ErrorCode::InvalidArgument),
            (
                "x-oss-server-side-encryption",
                "AES256",
                ErrorCode::NotImplemented,
            ),
            ("x-oss-acl", "open", ErrorCode::InvalidArgument),
        ] {
            let head = head("PUT", "localhost", "/bucket", &[(name, value)]);
            assert_eq!(PutBucket::parse(&head).unwrap_err().code(), code, "{name}");
        }
        for (status, asked) in [("enabled", true), ("disabled", false)] {
            let headers = [("x-oss-hns-status", status)];
            let put = PutBucket::parse(&head("PUT", "localhost", "/bucket", &headers)).unwrap();
            assert_eq!(put.hierarchical, Some(asked));
        }
    }
}
