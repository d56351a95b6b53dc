//! All groups of one node over its one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_kv::{Kv, KvError};
use granary_runtime::{GroupCommit, Runtime};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::group::{Group, Parts};
use crate::handle::Receiver;
use crate::lease::{SleepDetector, Standing};
use crate::log_store::{LogEnvironment, LogStore};
use crate::machine::Machine;
use crate::network::Sender;
use crate::proposer::Proposer;
use crate::snapshot::Stage;
use crate::types::{Raft, seeded};
use crate::{RaftConfig, RaftError, RaftReply, RaftRequest, RaftTransport, StateMachine};

/// Snapshots that a node sends at once, over all its groups.
const SNAPSHOTS_SENT_MAX: usize = 2;

/// One per node: owns the stream of syncs over the store and the node's groups.
pub struct RaftHost {
    runtime: Runtime,
    node: NodeId,
    config: RaftConfig,
    kv: Arc<dyn Kv>,
    transport: Arc<dyn RaftTransport>,
    syncs: GroupCommit<KvError>,
    snapshots: Arc<Semaphore>,
    /// `None` while a group is being opened.
    groups: Mutex<BTreeMap<ShardId, Option<Group>>>,
}

impl std::fmt::Debug for RaftHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHost")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl RaftHost {
    /// Starts the host; no group is open yet. Whoever else writes to `kv` and needs it durable
    /// may use [`RaftHost::synced`] to share the syncs.
    pub fn start(
        runtime: Runtime,
        node: NodeId,
        config: RaftConfig,
        kv: Arc<dyn Kv>,
        transport: Arc<dyn RaftTransport>,
    ) -> Arc<Self> {
        let runtime = runtime.child();
        let synced = Arc::clone(&kv);
        let syncs = GroupCommit::start(&runtime, KvError::Closed, move || synced.sync());
        Arc::new(Self {
            runtime,
            node,
            config,
            kv,
            transport,
            syncs,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_SENT_MAX)),
            groups: Mutex::new(BTreeMap::new()),
        })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Waits until everything written to the store before this call is durable.
    ///
    /// # Errors
    /// The sync's error, which is final for the store.
    pub async fn synced(&self) -> Result<(), KvError> {
        self.syncs.synced().await
    }

    /// Opens a shard's replica: recovers log, vote and state machine from the store and applies
    /// again what was committed. A sole voter leads when this returns (unless that takes more than a
    /// minute, see [`Group::wait_ready`]). A shard without history
    /// waits for [`RaftHost::bootstrap`] or for a leader that adds it.
    ///
    /// # Errors
    /// See [`RaftError`].
    pub async fn open(
        &self,
        shard: ShardId,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Group, RaftError> {
        {
            let mut groups = self.groups.lock();
            if groups.contains_key(&shard) {
                return Err(RaftError::AlreadyOpen(shard));
            }
            groups.insert(shard, None);
        }
        let opened = self.open_group(shard, machine).await;
        let mut groups = self.groups.lock();
        match &opened {
            Ok(group) => groups.insert(shard, Some(group.clone())),
            Err(_) => groups.remove(&shard),
        };
        opened
    }

    async fn open_group(
        &self,
        shard: ShardId,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Group, RaftError> {
        let lease = Duration::from_millis(self.config.election_max_ms);
        let stage = Stage::new(shard, Arc::clone(&self.kv));
        let environment = LogEnvironment {
            kv: Arc::clone(&self.kv),
            runtime: self.runtime.clone(),
            syncs: self.syncs.clone(),
            page_bytes: self.config.message_bytes,
        };
        let (runtime, machine_stage) = (self.runtime.clone(), stage.clone());
        let load = move || -> Result<_, RaftError> {
            let machine = Machine::open(shard, machine, runtime, machine_stage)?;
            Ok((LogStore::open(shard, environment)?, machine))
        };
        let loaded = self.runtime.blocking(load).await;
        let (log, (machine, applied)) =
            loaded.map_err(|error| RaftError::Stopped(error.to_string()))??;
        if log.purged() > applied.borrow().id {
            let reason = "the state machine lacks entries that were cut from it".to_owned();
            return Err(RaftError::CorruptLog { shard, reason });
        }
        // See `handle`: whoever may have promised something before a restart waits for a lease.
        let promised = log.has_history();
        let config = self.config.validated(!promised)?;
        let sender = Sender {
            node: self.node,
            shard,
            runtime: self.runtime.clone(),
            transport: Arc::clone(&self.transport),
            message_timeout: Duration::from_millis(self.config.message_timeout_ms),
            heartbeat_timeout: Duration::from_millis(self.config.election_min_ms / 2),
            snapshots: Arc::clone(&self.snapshots),
        };
        let seed = self.runtime.entropy().next_u64();
        let starting = Raft::new(self.node.0, config, sender, log.clone(), machine);
        let raft = Box::pin(seeded(seed, starting)).await;
        let raft = raft.map_err(|error| RaftError::Stopped(error.to_string()))?;
        let standing = Standing::new(self.node, raft.clone(), applied);
        let quarantine = promised.then(|| self.runtime.monotonic() + lease);
        let group = Group::new(Parts {
            shard,
            node: self.node,
            lease,
            proposer: Proposer::start(&self.runtime, standing.clone(), &self.config),
            receiver: Receiver::new(raft, self.runtime.clone(), stage, quarantine),
            clocks: SleepDetector::new(self.runtime.clone(), lease),
            standing,
            log,
            runtime: self.runtime.clone(),
        });
        if promised {
            group.campaign_after(lease);
        }
        group.start_alone().await?;
        Ok(group)
    }

    /// Forms a shard's group. Only an operator's or the root's explicit decision may lead here.
    /// Every voter may be given the same call, and it may be repeated: a group that is formed
    /// stays as it is.
    ///
    /// # Errors
    /// [`RaftError::UnknownShard`], [`RaftError::Membership`] when this node is not among
    /// `voters`, [`RaftError::Stopped`].
    pub async fn bootstrap(&self, shard: ShardId, voters: &[NodeId]) -> Result<(), RaftError> {
        self.get(shard)?.bootstrap(voters).await
    }

    /// Takes a peer's request.
    ///
    /// # Errors
    /// [`RaftError::UnknownShard`], [`RaftError::Malformed`], [`RaftError::NotNow`],
    /// [`RaftError::Stopped`].
    pub async fn handle(
        &self,
        shard: ShardId,
        request: RaftRequest,
    ) -> Result<RaftReply, RaftError> {
        self.get(shard)?.handle(request).await
    }

    /// The shard's replica, when it is open.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        self.groups.lock().get(&shard).cloned().flatten()
    }

    /// Every open group, by shard.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.lock().values().flatten().cloned().collect()
    }

    fn get(&self, shard: ShardId) -> Result<Group, RaftError> {
        self.group(shard).ok_or(RaftError::UnknownShard(shard))
    }

    /// Stops every group, makes what was written durable and ends the host's tasks.
    ///
    /// # Errors
    /// The last sync's error.
    pub async fn stop(&self) -> Result<(), KvError> {
        let groups = std::mem::take(&mut *self.groups.lock());
        for group in groups.into_values().flatten() {
            group.stop().await;
        }
        let synced = self.syncs.synced().await;
        self.runtime.stop().await;
        synced
    }
}
