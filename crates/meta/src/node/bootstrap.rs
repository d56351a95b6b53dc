//! Forming a new cluster: the root, then the data shards it starts with.
//!
//! Every step can be repeated: a node that stopped half-way goes on from what its root says. The
//! data shards' first state is a function of what `InitCluster` stored, so that every voter writes
//! the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use granary_kv::Kv;
use granary_meta_api::{Command, MetaError, MetaService, pb};
use granary_raft::StateMachineError;
use granary_runtime::Backoff;
use granary_types::{NodeId, ShardId, SlabId};

use super::{MetaNode, MetaNodeError, Shard};
use crate::apply::{FIRST_LEVEL, first_ranges};
use crate::database::{has_adopted, note_adopted};
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, kind_prefix};
use crate::machine::{create_shard, root_descriptor};
use crate::rows::{Bounds, Rows, View};
use pb::state;

/// Longest wait for the other voters of a new cluster.
const FORMING_LIMIT: Duration = Duration::from_secs(60);

/// What a new cluster begins with.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Region that clients sign with.
    pub region: String,
    /// The first account.
    pub root_account: state::Account,
    /// Nodes that vote in the root and in every first data shard; this node is one of them.
    pub voters: Vec<NodeId>,
}

/// A data shard that a cluster starts with.
struct FirstShard {
    descriptor: state::ShardDescriptor,
    voters: Vec<NodeId>,
}

impl MetaNode {
    /// Forms a new cluster, or goes on forming it; answers which cluster this is and whether it
    /// was made now. With several voters each of them is given the same call, and it returns when
    /// enough of them were.
    ///
    /// # Errors
    /// The voters did not agree in time, or the store failed.
    pub async fn bootstrap(
        self: &Arc<Self>,
        cluster: NewCluster,
    ) -> Result<pb::InitClusterReply, MetaNodeError> {
        let settings = state::ShardSettings {
            reader_grace_ms: self.config.reader_grace_ms,
            write_lease_ms: self.config.write_lease_ms,
        };
        let level = self.config.first_feature_level;
        self.create(root_descriptor(), settings, level).await?;
        self.open_shard(ShardId::ROOT, ROOT_HOME_SLAB).await?;
        self.host.bootstrap(ShardId::ROOT, &cluster.voters).await?;
        let reply = self.init_cluster(&cluster, settings).await?;
        self.adopt_first_shards().await?;
        Ok(reply)
    }

    async fn create(
        &self,
        descriptor: state::ShardDescriptor,
        settings: state::ShardSettings,
        level: u64,
    ) -> Result<(), MetaNodeError> {
        let kv = Arc::clone(&self.kv);
        let create = move || create_shard(kv.as_ref(), &descriptor, settings, level);
        Ok(self.runtime.blocking(create).await??)
    }

    /// Proposes the first command of the root, or waits until another voter has.
    async fn init_cluster(
        &self,
        cluster: &NewCluster,
        settings: state::ShardSettings,
    ) -> Result<pb::InitClusterReply, MetaNodeError> {
        let command = pb::InitCluster {
            cluster_id: cluster.cluster_id.clone(),
            region: cluster.region.clone(),
            shards: self.config.data_shards,
            root_account: Some(cluster.root_account.clone()),
            voters: cluster.voters.iter().map(|node| node.0).collect(),
            settings: Some(settings),
        };
        let (first, most) = (Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = Backoff::new(&self.runtime, first, most, FORMING_LIMIT);
        loop {
            if let Some(info) = self.local_info().await? {
                return Ok(pb::InitClusterReply {
                    cluster_id: info.cluster_id,
                    created: false,
                });
            }
            let failed = match self.propose_here(ShardId::ROOT, command.clone()).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(rejection)) => return Err(MetaNodeError::NotFormed(rejection.detail)),
                Err(error) => error,
            };
            if !backoff.wait(&self.runtime).await {
                return Err(failed.into());
            }
        }
    }

    /// The cluster's counters as this node's replica of the root has them.
    async fn local_info(&self) -> Result<Option<state::ClusterInfo>, MetaNodeError> {
        let kv = Arc::clone(&self.kv);
        let slab = ROOT_HOME_SLAB;
        let read = move || View(kv.as_ref()).get(&ClusterInfoKey { slab });
        Ok(self.runtime.blocking(read).await??)
    }

    /// Opens the data shards the cluster started with, where this node votes and has no replica
    /// yet, or one that a crash left without members.
    pub(super) async fn adopt_first_shards(self: &Arc<Self>) -> Result<(), MetaNodeError> {
        // The list is fixed when the cluster is made: done once, done for ever. Others may have this
        // node's place by now, and a sole first voter would elect itself.
        if self.first_shards_adopted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let kv = Arc::clone(&self.kv);
        if self
            .runtime
            .blocking(move || has_adopted(kv.as_ref()))
            .await??
        {
            self.first_shards_adopted.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let Some(info) = self.local_info().await? else {
            return Ok(());
        };
        let (kv, node) = (Arc::clone(&self.kv), self.node);
        let settings = info.settings.unwrap_or_default();
        let level = info.first_feature_level.max(FIRST_LEVEL);
        let read = move || first_shards(kv.as_ref(), &info, node);
        let shards = self.runtime.blocking(read).await??;
        let missing = shards.into_iter().filter(|first| {
            let shard = ShardId(first.descriptor.shard);
            let formed = |open: Arc<Shard>| !open.group.members().voters.is_empty();
            first.voters.contains(&self.node) && !self.shard(shard).is_some_and(formed)
        });
        let adopted = missing.map(|first| self.adopt(first, settings, level));
        try_join_all(adopted).await?;
        self.adopts_no_more().await
    }

    /// This node forms none of the first shards any more, not after a restart either.
    pub(super) async fn adopts_no_more(&self) -> Result<(), MetaNodeError> {
        let kv = Arc::clone(&self.kv);
        self.runtime
            .blocking(move || note_adopted(kv.as_ref()))
            .await??;
        self.first_shards_adopted.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn adopt(
        self: &Arc<Self>,
        first: FirstShard,
        settings: state::ShardSettings,
        level: u64,
    ) -> Result<(), MetaNodeError> {
        let shard = ShardId(first.descriptor.shard);
        let home = SlabId(first.descriptor.home_slab);
        self.create(first.descriptor, settings, level).await?;
        self.open_shard(shard, home).await?;
        Ok(self.host.bootstrap(shard, &first.voters).await?)
    }

    /// Decides a command on a shard this node leads, under a new id.
    pub(super) async fn propose_here<C: Command>(
        &self,
        shard: ShardId,
        command: C,
    ) -> granary_meta_api::client::Decision<C::Reply> {
        // The shard's time may be ahead of this clock, and never goes back.
        let shard_ms = self.shard(shard).map(|open| open.group.applied_time_ms());
        let envelope = self.envelope(command, shard_ms.unwrap_or_default());
        decided::<C>(self.propose(shard, envelope).await?)
    }

    /// Decides a command on the root, wherever it is led.
    pub(super) async fn propose_to_root<C: Command>(
        &self,
        command: C,
    ) -> granary_meta_api::client::Decision<C::Reply> {
        let mut root_ms = 0;
        loop {
            let route = self.root_route.read().clone();
            let envelope = self.envelope(command.clone(), root_ms);
            let outcome = match route {
                Some(service) => service.propose(ShardId::ROOT, envelope).await,
                None => self.propose(ShardId::ROOT, envelope).await,
            };
            match outcome {
                // Its first attempt, so nothing was applied: once more, for the root's time.
                Err(MetaError::Late { shard_ms, .. }) if root_ms == 0 => root_ms = shard_ms,
                outcome => return decided::<C>(outcome?),
            }
        }
    }

    fn envelope<C: Command>(&self, command: C, shard_ms: u64) -> pb::Command {
        let id = self.runtime.entropy().next_u128().to_be_bytes();
        let from_ms = self.runtime.now().as_millis().max(shard_ms);
        pb::Command {
            id: bytes::Bytes::copy_from_slice(&id),
            deadline_ms: from_ms + super::serve::OWN_DEADLINE_MS,
            command: Some(command.into_wire()),
        }
    }
}

fn decided<C: Command>(reply: pb::CommandReply) -> granary_meta_api::client::Decision<C::Reply> {
    if let Some(rejection) = reply.rejection {
        return Ok(Err(rejection));
    }
    let answer = reply.reply.and_then(C::reply);
    let answer = answer.ok_or_else(|| {
        granary_meta_api::MetaError::Internal("the reply is of another kind".to_owned())
    })?;
    Ok(Ok(answer))
}

/// The data shards a cluster started with and that a node votes in, as the root's rows say.
fn first_shards(
    kv: &dyn Kv,
    info: &state::ClusterInfo,
    node: NodeId,
) -> Result<Vec<FirstShard>, StateMachineError> {
    let bounds = Bounds::prefix(kind_prefix(ROOT_HOME_SLAB, Kind::RangeHint));
    let hints = View(kv).list::<RangeHintKey>(&bounds, usize::MAX)?;
    let hints = hints.into_iter().map(|(_, hint)| (hint.shard, hint.voters));
    let hints: BTreeMap<u32, Vec<u64>> = hints.collect();
    let voters_of = |shard: u32| {
        // The hints follow the members; those who formed the shard do not change. Clusters that do
        // not say who they were began with one node.
        let now = hints.get(&shard)?;
        if !now.contains(&node.0) {
            // It formed the shard, and others have its place now.
            return None;
        }
        let voters = match (info.first_voters.is_empty(), now.len()) {
            (false, _) => info.first_voters.iter(),
            (true, 1) => now.iter(),
            (true, _) => [].iter(),
        };
        Some(voters.map(|node| NodeId(*node)).collect())
    };
    let first = first_ranges(info.first_shards).filter_map(|(shard, home_slab, range)| {
        Some(FirstShard {
            voters: voters_of(shard)?,
            descriptor: state::ShardDescriptor {
                shard,
                home_slab,
                epoch: range.epoch,
                ranges: vec![range],
                ..Default::default()
            },
        })
    });
    Ok(first.collect())
}
