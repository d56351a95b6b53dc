//! Splits ranges that have become too large: asks the shards how large theirs are, and gives the upper half of
//! the largest to a new shard each. A bucket that grows at its end so gets a new last range again and again; who
//! leads it, and on which nodes it lies, is up to the keeper of the members.
//!
//! It remembers nothing that counts: a measurement names the epoch of its range, and a split that was done or
//! overtaken meanwhile is refused by that. So every step may be repeated, by anybody.
//!
//! Invariants: a tick asks a bounded number of shards and splits a few; a shard that splits, or was made by a split,
//! is left alone until the root knows its child, the child is led, has as many voters as its parent and is backed
//! up; nobody is a voter of a new shard who was given up; a shard that has not activated the feature level is asked
//! nothing that an older version does not know.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Meta, feature_level, pb};
use granary_runtime::{Runtime, within};
use granary_types::{ShardId, limits};

use crate::member_keeper::is_meta;
use crate::worker::TICK_TIME;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};

/// Shards that a tick asks.
const SHARDS_PER_TICK: usize = 32;
/// Ranges that a tick splits.
const SPLITS_PER_TICK: usize = 2;
/// Longest wait for one shard: the others must not wait for one that has no leader.
const SHARD_LIMIT: Duration = Duration::from_secs(3);
/// Longest time for one split.
const SPLIT_LIMIT: Duration = Duration::from_secs(5);

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeKeeperConfig {
    /// A range with more bytes than this is split; 0: none ever.
    pub split_bytes: u64,
    /// Replicas of shards that a metadata node has at most for that.
    pub replicas_per_node_max: usize,
}

impl RangeKeeperConfig {
    /// Splits ranges of more than `split_bytes`.
    pub fn above(split_bytes: u64) -> Self {
        Self {
            split_bytes,
            replicas_per_node_max: limits::META_REPLICAS_PER_NODE_MAX,
        }
    }
}

/// The range keeper.
pub struct RangeKeeper {
    runtime: Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
    config: RangeKeeperConfig,
    /// The shard that was asked last; `None`: begin with the first.
    after: Option<ShardId>,
    /// Shards that are known to have the feature level: it only rises.
    reached: BTreeSet<ShardId>,
    /// The largest range of this round.
    largest: u64,
    /// Ranges of this round that are too large.
    too_large: u64,
    /// The nodes had replicas enough when a range was to be split last.
    full: bool,
    /// An id that was allocated and is certainly not used.
    spare: Option<pb::Allocated>,
}

/// A range that is too large.
struct Large {
    shard: ShardId,
    size: pb::RangeSize,
}

/// What the root says.
struct World {
    /// Every shard that owns a range, and how many voters it has.
    shards: BTreeMap<ShardId, usize>,
    given_up: BTreeSet<u64>,
    nodes: usize,
}

impl World {
    fn new(map: &pb::ClusterMap) -> Self {
        let shards = map.ranges.iter();
        let shards = shards.map(|hint| (ShardId(hint.shard), hint.voters.len().max(1)));
        let nodes = map.nodes.iter().filter(|node| is_meta(node));
        let given_up = map.nodes.iter().filter(|node| node.removed);
        Self {
            shards: shards.collect(),
            given_up: given_up.map(|node| node.id).collect(),
            // A single server has no record.
            nodes: nodes.filter(|node| !node.removed).count().max(1),
        }
    }

    /// The next shards to ask, and whether there are more behind them.
    fn page(&self, after: Option<ShardId>) -> (Vec<ShardId>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut shards = self.shards.range((from, Bound::Unbounded));
        let page = shards.by_ref().take(SHARDS_PER_TICK);
        let page = page.map(|(shard, _)| *shard).collect();
        (page, shards.next().is_some())
    }

    /// Whether the nodes may get as many replicas as the shard has.
    fn has_room_beside(&self, shard: ShardId, per_node_max: usize) -> bool {
        let replicas: usize = self.shards.values().sum();
        let more = self.shards.get(&shard).copied().unwrap_or(1);
        replicas + more <= self.nodes * per_node_max
    }

    /// The voters of a shard, when they are certain to stay for now.
    fn settled_voters(&self, told: &pb::ShardDescription) -> Option<Vec<u64>> {
        let members = told.members.as_ref()?;
        let leaves = |node: &u64| self.given_up.contains(node);
        let settled = members.learners.is_empty() && !members.voters.iter().any(leaves);
        settled.then(|| members.voters.clone())
    }
}

impl RangeKeeper {
    /// A keeper that asks the shards that the root knows.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        metrics: WorkerMetrics,
        config: RangeKeeperConfig,
    ) -> Self {
        Self {
            runtime,
            meta: meta.with_deadline(SPLIT_LIMIT),
            metrics,
            config,
            after: None,
            reached: BTreeSet::new(),
            largest: 0,
            too_large: 0,
            full: false,
            spare: None,
        }
    }

    async fn describe(&self, shard: ShardId) -> Result<pb::ShardDescription, WorkerError> {
        let asked = self.meta.query_at(shard, pb::DescribeShard {});
        let told = within(SHARD_LIMIT, asked).await;
        Ok(told.map_err(|_| WorkerError::TooLong)??)
    }

    /// Whether the shard has the level; a version without it does not know what else is asked here.
    async fn has_level(&self, shard: ShardId) -> bool {
        if self.reached.contains(&shard) {
            return true;
        }
        let told = self.describe(shard).await;
        let clock = told.ok().and_then(|told| told.clock);
        clock.is_some_and(|clock| clock.feature_level >= feature_level::SPLITS)
    }

    /// How large the shard's ranges are; none of one that does not answer, or not yet.
    async fn sizes(&self, shard: ShardId) -> (ShardId, Option<pb::RangeSizes>) {
        if !self.has_level(shard).await {
            return (shard, None);
        }
        let query = pb::MeasureRanges {
            at_least: self.config.split_bytes,
        };
        let asked = within(SHARD_LIMIT, self.meta.query_at(shard, query)).await;
        match asked {
            Ok(Ok(sizes)) => (shard, Some(sizes)),
            Ok(Err(error)) => {
                tracing::debug!(shard = shard.0, %error, "ranges not measured");
                (shard, None)
            }
            Err(_) => (shard, None),
        }
    }

    /// Asks some shards; those of their ranges that are too large, the largest first.
    async fn measure(&mut self, page: Vec<ShardId>) -> Vec<Large> {
        let asked = page.into_iter().map(|shard| self.sizes(shard));
        let told = join_all(asked).await;
        let mut large = Vec::new();
        for (shard, sizes) in told {
            let Some(sizes) = sizes else { continue };
            self.reached.insert(shard);
            for size in sizes.ranges {
                self.largest = self.largest.max(size.bytes);
                if size.bytes < self.config.split_bytes {
                    continue;
                }
                self.too_large += 1;
                if size.can_split {
                    large.push(Large { shard, size });
                }
            }
        }
        large.sort_by_key(|large| std::cmp::Reverse(large.size.bytes));
        large
    }

    /// The voters of a shard that may be split now, and its newest child.
    async fn ready(
        &self,
        shard: ShardId,
        world: &World,
    ) -> Result<Option<(Vec<u64>, ShardId)>, WorkerError> {
        let told = self.describe(shard).await?;
        let Some(voters) = world.settled_voters(&told) else {
            return Ok(None);
        };
        let descriptor = told.descriptor.unwrap_or_default();
        if !descriptor.unreported_children.is_empty() || !told.backed_up {
            return Ok(None);
        }
        // A shard that a split has made names itself until it splits.
        let child = ShardId(descriptor.last_child);
        if child.0 == 0 || child == shard {
            return Ok(Some((voters, child)));
        }
        let told = self.describe(child).await?;
        let its_voters = world.settled_voters(&told).unwrap_or_default();
        let settled = told.backed_up && its_voters.len() >= voters.len();
        Ok(settled.then_some((voters, child)))
    }

    /// True when the range was split.
    async fn split(&mut self, large: Large, world: &mut World) -> Result<bool, WorkerError> {
        let full = !world.has_room_beside(large.shard, self.config.replicas_per_node_max);
        if full && !self.full {
            tracing::warn!("ranges of the metadata stay large: its nodes have replicas enough");
        }
        self.full = full;
        if full {
            return Ok(false);
        }
        let range = large.size.range.unwrap_or_default();
        let Some((voters, newest)) = self.ready(large.shard, world).await? else {
            return Ok(false);
        };
        let (child, count) = (self.child(newest.max(large.shard)).await?, voters.len());
        let command = pb::SplitRange {
            split_bucket: large.size.split_bucket,
            split_key: large.size.split_key,
            child_shard: u32::try_from(child.id).unwrap_or_default(),
            child_home_slab: child.slab,
            voters,
            expected_epoch: range.epoch,
        };
        let proposed = self.meta.propose_to(large.shard, command).await;
        if proposed
            .as_ref()
            .is_err_and(|error| !error.may_be_applied())
        {
            self.spare = Some(child.clone());
        }
        match proposed? {
            Ok(_) => {
                tracing::info!(
                    shard = large.shard.0,
                    child = child.id,
                    bytes = large.size.bytes,
                    "a large range is split"
                );
                self.metrics.ranges_split.inc();
                let child = u32::try_from(child.id).unwrap_or_default();
                world.shards.insert(ShardId(child), count);
                Ok(true)
            }
            Err(no) => {
                self.spare = Some(child);
                match no.reason() {
                    Reason::Stale => Ok(false),
                    _ => Err(WorkerError::refused("a split", no)),
                }
            }
        }
    }

    /// An id for a new shard, above those that the parent knows.
    async fn child(&mut self, above: ShardId) -> Result<pb::Allocated, WorkerError> {
        let spare = self.spare.take();
        if let Some(spare) = spare.filter(|spare| spare.id > u64::from(above.0)) {
            return Ok(spare);
        }
        let nonce = self.runtime.entropy().next_u128().to_be_bytes();
        let command = pb::AllocateShard {
            nonce: Bytes::copy_from_slice(&nonce),
        };
        let allocated = self.meta.propose(command).await?;
        allocated.map_err(|no| WorkerError::refused("a shard", no))
    }
}

impl Worker for RangeKeeper {
    const NAME: &'static str = "range-keeper";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        if self.config.split_bytes == 0 {
            return Ok(Tick::Done);
        }
        let until = self.runtime.monotonic() + TICK_TIME;
        let map = self.meta.query(pb::GetClusterMap { known_epoch: 0 });
        let map = map.await?;
        let level = map.info.as_ref().map_or(0, |info| info.feature_level);
        if level < feature_level::SPLITS {
            return Ok(Tick::Done);
        }
        let mut world = World::new(&map);
        self.reached
            .retain(|shard| world.shards.contains_key(shard));
        let (page, more) = world.page(self.after.take());
        let last = page.last().copied();
        let large = self.measure(page).await;
        self.after = last.filter(|_| more);
        if !more {
            self.metrics.largest_range_bytes.set(self.largest);
            self.metrics.large_ranges.set(self.too_large);
            (self.largest, self.too_large) = (0, 0);
        }
        let mut splits = 0;
        let mut failure = None;
        for large in large {
            if splits == SPLITS_PER_TICK || self.runtime.monotonic() >= until {
                break;
            }
            match self.split(large, &mut world).await {
                Ok(done) => splits += usize::from(done),
                // The others have their turn; what was not decided is measured again.
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if more => Ok(Tick::More),
            None => Ok(Tick::Done),
        }
    }
}
