//! Queries: one file each. They read one snapshot of the store, which the caller took between the
//! two steps of a lease read, so that what they see is the newest acknowledged state.
//!
//! A query about a position or an interval is answered only by the shard that owns all of it, as
//! the snapshot's own descriptor says.

mod grouping;
mod halving;
mod tree;

mod begin_write;
mod describe_shard;
mod get_access_key;
mod get_bucket;
mod get_cluster_map;
mod get_counters;
mod get_join_token;
mod get_trust;
mod get_upload;
mod get_version;
mod list_access_keys;
mod list_buckets;
mod list_deletions;
mod list_extents;
mod list_objects;
mod list_parts;
mod list_references;
mod list_unfinished_buckets;
mod list_uploads;
mod list_versions;
mod lookup_chunks;
mod lookup_owners;
mod measure_ranges;

pub(crate) use begin_write::IdSource;

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{KvError, KvRead};
use granary_meta_api::pb;
use granary_meta_api::pb::query::Query as Wire;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::{BucketId, ShardId, SlabId};

use crate::keyspace::bucket_view::BucketViewKey;
use crate::ownership::{KeySpan, Place, place_at, slab_of_span};
use crate::paths::resolve;
use crate::rows::{Rows, View};
use crate::shard_rows::ShardRows;

/// Why a query was not answered.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The shard does not own (all of) what was asked for.
    WrongShard,
    /// The query makes no sense.
    Invalid(&'static str),
    /// The store failed or holds what cannot be read.
    Failed(StateMachineError),
}

impl From<StateMachineError> for QueryError {
    fn from(error: StateMachineError) -> Self {
        Self::Failed(error)
    }
}

impl From<KvError> for QueryError {
    fn from(error: KvError) -> Self {
        Self::Failed(error.into())
    }
}

/// A shard as one snapshot shows it.
pub(crate) struct ShardView<'a> {
    pub(crate) rows: View<'a>,
    pub(crate) home: SlabId,
    pub(crate) descriptor: Arc<state::ShardDescriptor>,
    pub(crate) clock: Arc<state::ShardClock>,
    /// The leader's wall clock, not before the applied time.
    pub(crate) now_ms: u64,
    /// Allocates write ids in the leader's term.
    pub(crate) ids: IdSource,
}

impl<'a> ShardView<'a> {
    /// The shard in a snapshot; `known` is what [`ShardMachine::view`](crate::machine::ShardMachine::view)
    /// gave with it.
    pub(crate) fn open(
        snapshot: &'a dyn KvRead,
        home: SlabId,
        known: Option<ShardRows>,
        now_ms: u64,
        ids: IdSource,
    ) -> Result<Self, QueryError> {
        let rows = View(snapshot);
        let known = match known {
            Some(known) => Some(known),
            None => ShardRows::read(&rows, home)?,
        };
        let ShardRows { descriptor, clock } = known.ok_or(QueryError::WrongShard)?;
        Ok(Self {
            now_ms: now_ms.max(clock.applied_ms),
            descriptor,
            rows,
            home,
            clock,
            ids,
        })
    }

    /// The place of a position that the shard owns; of a path, where it leads.
    pub(crate) fn place(&self, at: Option<&pb::Position>) -> Result<Place, QueryError> {
        Ok(self.locate(at)?.0)
    }

    /// The place of a position, and what the shard knows of its bucket.
    pub(crate) fn locate(
        &self,
        at: Option<&pb::Position>,
    ) -> Result<(Place, Option<state::BucketView>), QueryError> {
        let at = at.ok_or(QueryError::Invalid("no position"))?;
        let place = place_at(&self.descriptor, BucketId(at.bucket_id), &at.key);
        let place = place.ok_or(QueryError::WrongShard)?;
        let view = self.view(place.bucket)?;
        if view.is_some_and(|view| view.hierarchical) {
            return Ok((resolve(&self.rows, place)?, view));
        }
        Ok((place, view))
    }

    /// What the shard knows of a bucket.
    pub(crate) fn view(&self, bucket: BucketId) -> Result<Option<state::BucketView>, QueryError> {
        let slab = self.home;
        Ok(self.rows.get(&BucketViewKey { slab, bucket })?)
    }

    /// The slab of a span of keys that the shard owns as a whole.
    pub(crate) fn slab(&self, span: &KeySpan<'_>) -> Result<SlabId, QueryError> {
        slab_of_span(&self.descriptor, span).ok_or(QueryError::WrongShard)
    }

    fn root_only(&self) -> Result<(), QueryError> {
        match ShardId(self.descriptor.shard) {
            ShardId::ROOT => Ok(()),
            _ => Err(QueryError::WrongShard),
        }
    }
}

/// A query's answer.
pub(crate) trait Answer {
    /// Reads the answer.
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError>;
}

/// Answers a query from a snapshot. One line per query.
pub(crate) fn answer(query: Wire, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
    match query {
        Wire::GetVersion(q) => q.answer(shard),
        Wire::ListExtents(q) => q.answer(shard),
        Wire::ListObjects(q) => q.answer(shard),
        Wire::ListUploads(q) => q.answer(shard),
        Wire::ListParts(q) => q.answer(shard),
        Wire::GetUpload(q) => q.answer(shard),
        Wire::BeginWrite(q) => q.answer(shard),
        Wire::GetCounters(q) => q.answer(shard),
        Wire::ListDeletions(q) => q.answer(shard),
        Wire::LookupOwners(q) => q.answer(shard),
        Wire::DescribeShard(q) => q.answer(shard),
        Wire::ListVersions(q) => q.answer(shard),
        Wire::ListReferences(q) => q.answer(shard),
        Wire::LookupChunks(q) => q.answer(shard),
        Wire::MeasureRanges(q) => q.answer(shard),
        root => {
            shard.root_only()?;
            answer_root(root, shard)
        }
    }
}

fn answer_root(query: Wire, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
    match query {
        Wire::GetBucket(q) => q.answer(shard),
        Wire::GetBucketById(q) => q.answer(shard),
        Wire::ListBuckets(q) => q.answer(shard),
        Wire::ListUnfinishedBuckets(q) => q.answer(shard),
        Wire::GetAccessKey(q) => q.answer(shard),
        Wire::ListAccessKeys(q) => q.answer(shard),
        Wire::GetClusterMap(q) => q.answer(shard),
        Wire::GetTrust(q) => q.answer(shard),
        Wire::GetJoinToken(q) => q.answer(shard),
        _ => Err(QueryError::Invalid("not a query of the root")),
    }
}

/// A limit as asked for, within what one page may hold.
pub(crate) fn page_limit(asked: u32, most: usize) -> usize {
    usize::try_from(asked).unwrap_or(most).min(most)
}

/// Bytes of a name in a message.
fn text(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// A snapshot that can cross threads.
pub(crate) type Snapshot = Arc<dyn KvRead>;
