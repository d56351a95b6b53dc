//! What the commands of the root share.

use bytes::Bytes;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{FIRST_LEVEL, NODES_TELL, Refusal, Tx};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_by_name::BucketByNameKey;
use crate::keyspace::bucket_by_owner::BucketByOwnerKey;
use crate::keyspace::bucket_config::BucketConfigKey;
use crate::keyspace::bucket_unfinished::BucketUnfinishedKey;
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::rows::{Bounds, Rows};

/// The role of nodes with replicas, as their records name it.
const META_ROLE: &str = "meta";

/// The cluster's counters; refused before `InitCluster`.
pub(super) fn info(tx: &Tx<'_>) -> Result<state::ClusterInfo, Refusal> {
    let row = ClusterInfoKey { slab: tx.home() };
    tx.get(&row)?
        .ok_or_else(|| Refusal::invalid("the cluster is not initialised"))
}

pub(super) fn put_info(tx: &mut Tx<'_>, info: &state::ClusterInfo) -> Result<(), Refusal> {
    let row = ClusterInfoKey { slab: tx.home() };
    tx.put(&row, info)
}

/// Tells the gateways that what the cluster map shows has changed.
pub(super) fn raise_map_epoch(tx: &mut Tx<'_>) -> Result<(), Refusal> {
    let mut info = info(tx)?;
    info.map_epoch += 1;
    put_info(tx, &info)
}

/// True for a node that may have replicas; a record without roles has all.
pub(super) fn is_meta(node: &state::Node) -> bool {
    node.roles.is_empty() || node.roles.iter().any(|role| role == META_ROLE)
}

/// Whether a node may be in the cluster with what it applies; what is kept of that. Versions that
/// apply only the first level keep nothing, so nothing is kept as long as one of them may be there.
pub(super) fn let_in(tx: &Tx<'_>, node: &mut state::Node) -> Result<(), Refusal> {
    let active = tx.clock.feature_level;
    if active < NODES_TELL {
        node.feature_level = 0;
        return Ok(());
    }
    let applies = node.feature_level.max(FIRST_LEVEL);
    if is_meta(node) && applies < active {
        return Err(Refusal::invalid(format!(
            "this node's version of Granary applies feature levels up to {applies}, and the cluster is \
             at level {active}: install the version that the other nodes run"
        )));
    }
    Ok(())
}

fn text(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(super) fn by_id(tx: &Tx<'_>, bucket: u64) -> BucketByIdKey {
    BucketByIdKey {
        slab: tx.home(),
        bucket: BucketId(bucket),
    }
}

pub(super) fn by_name(tx: &Tx<'_>, name: &str) -> BucketByNameKey {
    BucketByNameKey {
        slab: tx.home(),
        name: text(name),
    }
}

pub(super) fn by_owner(tx: &Tx<'_>, bucket: &state::Bucket) -> BucketByOwnerKey {
    BucketByOwnerKey {
        slab: tx.home(),
        owner: bucket.owner,
        name: text(&bucket.name),
    }
}

pub(super) fn config_of(tx: &Tx<'_>, bucket: u64, name: &str) -> BucketConfigKey {
    BucketConfigKey {
        slab: tx.home(),
        bucket: BucketId(bucket),
        name: text(name),
    }
}

/// A bucket by id; refused when there is none.
pub(super) fn get_bucket(tx: &Tx<'_>, bucket: u64) -> Result<state::Bucket, Refusal> {
    tx.get(&by_id(tx, bucket))?
        .ok_or_else(|| Reason::NoSuchBucket.into())
}

/// Stores a bucket, and whether a worker has to look at it.
pub(super) fn put_bucket(tx: &mut Tx<'_>, bucket: &state::Bucket) -> Result<(), Refusal> {
    let unfinished = BucketUnfinishedKey {
        slab: tx.home(),
        bucket: BucketId(bucket.id),
    };
    if bucket.state() == state::bucket::State::Active && !bucket.settling {
        tx.delete(&unfinished);
    } else {
        tx.put(&unfinished, &())?;
    }
    let row = by_id(tx, bucket.id);
    tx.put(&row, bucket)
}

/// Removes a bucket with its indexes and configurations.
pub(super) fn remove_bucket(tx: &mut Tx<'_>, bucket: &state::Bucket) {
    let unfinished = BucketUnfinishedKey {
        slab: tx.home(),
        bucket: BucketId(bucket.id),
    };
    tx.delete(&unfinished);
    let (by_id, by_name, by_owner) = (
        by_id(tx, bucket.id),
        by_name(tx, &bucket.name),
        by_owner(tx, bucket),
    );
    tx.delete(&by_id);
    tx.delete(&by_name);
    tx.delete(&by_owner);
    let mut configs = kind_prefix(tx.home(), Kind::BucketConfig);
    BucketId(bucket.id).write(&mut configs);
    tx.delete_range(&Bounds::prefix(configs));
}
