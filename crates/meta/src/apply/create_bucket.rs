//! CreateBucket: gives a name an id, pending until every owning shard knows the bucket.
//!
//! The same owner may create it again with the same configuration.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::{BucketAcl, BucketName, Redundancy, StorageClass, limits};

use super::root_rows::{by_name, by_owner, get_bucket, info, put_bucket, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::bucket_by_owner::BucketByOwnerKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::rows::{Bounds, Rows};

impl Apply for pb::CreateBucket {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let Some(wanted) = self.bucket else {
            return Err(Refusal::invalid("no bucket"));
        };
        check(&wanted)?;
        if let Some(id) = tx.get(&by_name(tx, &wanted.name))? {
            let bucket = again(tx, id, &wanted, self.acl_given)?;
            return Ok(Reply::Bucket(bucket));
        }
        let most = match self.buckets_max {
            0 => limits::BUCKETS_PER_ACCOUNT_MAX,
            most => most as usize,
        };
        let mut prefix = kind_prefix(tx.home(), Kind::BucketByOwner);
        wanted.owner.write(&mut prefix);
        let owned = tx.list::<BucketByOwnerKey>(&Bounds::prefix(prefix), most)?;
        if owned.len() >= most {
            return Err(Reason::TooManyBuckets.into());
        }
        let mut info = info(tx)?;
        let id = info.next_bucket.reverse_bits();
        info.next_bucket += 1;
        put_info(tx, &info)?;
        let bucket = state::Bucket {
            id,
            created_ms: at.time_ms,
            generation: 1,
            state: state::bucket::State::Creating.into(),
            ..wanted
        };
        let (name, owner) = (by_name(tx, &bucket.name), by_owner(tx, &bucket));
        tx.put(&name, &id)?;
        tx.put(&owner, &id)?;
        put_bucket(tx, &bucket)?;
        Ok(Reply::Bucket(bucket))
    }
}

fn check(wanted: &state::Bucket) -> Result<(), Refusal> {
    let known = BucketName::try_from(wanted.name.as_str()).is_ok()
        && StorageClass::from_number(wanted.storage_class).is_some()
        && Redundancy::from_number(wanted.redundancy).is_some()
        && BucketAcl::from_number(wanted.acl).is_some();
    match known {
        true => Ok(()),
        false => Err(Refusal::invalid(
            "an unknown class, redundancy or ACL, or an illegal name",
        )),
    }
}

/// The bucket that has the name, when this is a repeat by its owner.
fn again(
    tx: &mut Tx<'_>,
    id: u64,
    wanted: &state::Bucket,
    acl_given: bool,
) -> Result<state::Bucket, Refusal> {
    let mut bucket = get_bucket(tx, id)?;
    if bucket.owner != wanted.owner {
        return Err(Reason::BucketExistsOtherOwner.into());
    }
    // A bucket that is being deleted is nobody's yet: the caller finishes that first.
    if bucket.state() == state::bucket::State::Deleting {
        return Ok(bucket);
    }
    let kind =
        |bucket: &state::Bucket| (bucket.storage_class, bucket.redundancy, bucket.hierarchical);
    if kind(&bucket) != kind(wanted) {
        return Err(Reason::BucketExistsOtherConfig.into());
    }
    if acl_given && bucket.acl != wanted.acl {
        bucket.acl = wanted.acl;
        put_bucket(tx, &bucket)?;
    }
    Ok(bucket)
}
