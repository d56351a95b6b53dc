//! The metadata service of one node: its shards, over one store and one Raft host.
//!
//! It opens what it finds in the store, forms a new cluster when told to, follows splits, lets the
//! time of idle shards go on, and answers commands and queries for the shards it leads. Calls into
//! the store are made away from the async threads; the queries that run or wait are limited, the
//! commands by what their shard may queue.

mod backup;
mod bootstrap;
mod children;
mod config;
mod control;
mod error;
mod metrics;
mod reporting;
mod serve;
mod strays;
mod ticker;

#[cfg(test)]
mod tests;

pub use backup::{BackupOptions, BackupStatus};
pub use bootstrap::NewCluster;
pub use config::MetaConfig;
pub use error::MetaNodeError;
pub use metrics::MetaMetrics;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::try_join_all;
use granary_kv::Kv;
use granary_meta_api::{MetaError, MetaService};
use granary_raft::{Group, RaftError, RaftHost, RaftTransport, StateMachine, StateMachineError};
use granary_runtime::{CancellationToken, Runtime};
use granary_types::{NodeId, ShardId, SlabId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::apply::FEATURE_LEVEL;
use crate::machine::{Claims, ShardMachine, clear_all_closed, highest_level, local_shards};
use metrics::Counts;

/// A shard's replica on this node.
struct Shard {
    group: Group,
    machine: Arc<ShardMachine>,
    /// Counter of the write ids this replica gives out; it begins anywhere.
    ids: Arc<AtomicU32>,
    /// Ends what follows the replica: when it is closed, or with the node.
    closed: CancellationToken,
}

/// The metadata service of one node.
pub struct MetaNode {
    /// For what outlives a call.
    this: Weak<MetaNode>,
    runtime: Runtime,
    node: NodeId,
    kv: Arc<dyn Kv>,
    host: Arc<RaftHost>,
    config: MetaConfig,
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    /// Shards being opened or closed, so that two callers do not open one twice.
    opening: Mutex<Vec<ShardId>>,
    /// How the root is reached; `None`: by this node itself.
    root_route: RwLock<Option<Arc<dyn MetaService>>>,
    /// Queries that may run or wait, and that may run.
    admitted: Semaphore,
    running: Semaphore,
    counts: Counts,
    /// Set once the cluster's first shards are open and formed here.
    first_shards_adopted: AtomicBool,
    /// Set while the store's disk is nearly full.
    growth_refused: AtomicBool,
    /// Set by a stop.
    stopped: AtomicBool,
    /// Set when this node begins to hand over what it leads: nothing is given back to it.
    leaving: AtomicBool,
    claims: Claims,
    /// How far the backups of the shards that this node leads are.
    backups: backup::Backups,
}

impl std::fmt::Debug for MetaNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaNode")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl MetaNode {
    /// Opens every shard that has a replica in the store; a new store has none (see
    /// [`MetaNode::bootstrap`]). Shards of which this node is the only voter serve when this
    /// returns.
    ///
    /// # Errors
    /// The store, the log or the state machine of a shard cannot be read.
    pub async fn open(
        runtime: Runtime,
        node: NodeId,
        kv: Arc<dyn Kv>,
        transport: Arc<dyn RaftTransport>,
        config: MetaConfig,
    ) -> Result<Arc<Self>, MetaNodeError> {
        // Beside this node's own tasks, not below them: when they stop, the host still syncs.
        let host = RaftHost::start(
            runtime.clone(),
            node,
            config.raft.clone(),
            Arc::clone(&kv),
            transport,
        );
        let runtime = runtime.child();
        let meta = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            admitted: Semaphore::new(config.queries_waiting_max + config.queries_running_max),
            running: Semaphore::new(config.queries_running_max),
            runtime,
            node,
            kv,
            host,
            config,
            shards: RwLock::default(),
            opening: Mutex::default(),
            root_route: RwLock::default(),
            counts: Counts::default(),
            first_shards_adopted: AtomicBool::new(false),
            growth_refused: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            claims: Claims::default(),
            backups: backup::Backups::default(),
        });
        let store = Arc::clone(&meta.kv);
        let look = move || {
            clear_all_closed(&store)?;
            let found = local_shards(store.as_ref())?;
            let level = highest_level(store.as_ref(), &found)?;
            Ok::<_, StateMachineError>((found, level))
        };
        let (found, active) = meta.runtime.blocking(look).await??;
        if active > FEATURE_LEVEL {
            let known = FEATURE_LEVEL;
            return Err(MetaNodeError::TooOld { active, known });
        }
        let opened = found
            .into_iter()
            .map(|(shard, home)| meta.open_shard(shard, home));
        try_join_all(opened).await?;
        if meta.shard(ShardId::ROOT).is_some() {
            meta.adopt_first_shards().await?;
        }
        meta.runtime.spawn(ticker::run(Arc::clone(&meta)));
        meta.runtime.spawn(strays::run(Arc::clone(&meta)));
        Ok(meta)
    }

    /// True when this node has a replica of any shard: it belongs to a cluster.
    pub fn has_shards(&self) -> bool {
        !self.shards.read().is_empty()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The Raft host, for the service that takes the peers' requests.
    pub fn raft(&self) -> &Arc<RaftHost> {
        &self.host
    }

    /// Tells how the root is reached when another node may lead it.
    pub fn route_root_through(&self, service: Arc<dyn MetaService>) {
        *self.root_route.write() = Some(service);
    }

    /// Refuses what needs room, from now on or no longer: for whoever watches the disk under the
    /// store. Commands that free space, and everything that reads, go on. Refused is what clients
    /// send to this node; what is in a log is applied, and other nodes decide for themselves.
    /// Returns whether it was refused before.
    pub fn refuse_growth(&self, refuse: bool) -> bool {
        self.growth_refused.swap(refuse, Ordering::Relaxed)
    }

    fn growth_refused(&self) -> bool {
        self.growth_refused.load(Ordering::Relaxed)
    }

    /// Waits, for at most `limit`, until every shard of this node has a leader.
    ///
    /// # Errors
    /// [`MetaNodeError::NotReady`] names a shard that has none.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), MetaNodeError> {
        let deadline = self.runtime.monotonic() + limit;
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        for shard in shards {
            let left = deadline.saturating_sub(self.runtime.monotonic());
            let ready = shard.group.wait_ready(left).await;
            if ready.is_err_and(|not_leader| not_leader.leader.is_none()) {
                return Err(MetaNodeError::NotReady(shard.group.shard()));
            }
        }
        Ok(())
    }

    /// Ends every task and group; what was acknowledged is durable already. Whoever calls from then
    /// on is told that the node is unavailable. See [`MetaNode::hand_over`] for what to do first.
    ///
    /// # Errors
    /// The last sync failed.
    pub async fn stop(&self) -> Result<(), MetaNodeError> {
        self.stopped.store(true, Ordering::Relaxed);
        self.runtime.stop().await;
        self.shards.write().clear();
        self.host
            .stop()
            .await
            .map_err(|error| MetaNodeError::Raft(error.into()))
    }

    fn shard(&self, shard: ShardId) -> Option<Arc<Shard>> {
        self.shards.read().get(&shard).cloned()
    }

    /// An error once the node was stopped.
    fn serving(&self) -> Result<(), MetaError> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(MetaError::Unavailable("the node is stopping".to_owned())),
            false => Ok(()),
        }
    }

    /// The shard's replica here. Whoever asks for another one has an old map, unless the node stops.
    fn find(&self, shard: ShardId) -> Result<Arc<Shard>, MetaError> {
        self.serving()?;
        self.shard(shard).ok_or(MetaError::WrongShard(shard))
    }

    /// The shard's replica here, for whoever asks something of the shard: without one this node only
    /// knows that it is not the one to ask. That the shard owns something else, the shard itself says.
    fn find_to_ask(&self, shard: ShardId) -> Result<Arc<Shard>, MetaError> {
        self.find(shard).map_err(|error| match error {
            MetaError::WrongShard(shard) => MetaError::NotLeader {
                shard,
                leader: None,
            },
            error => error,
        })
    }

    /// True when the shard's replica has no state, and waits for a snapshot.
    async fn is_blank(&self, shard: ShardId) -> Result<bool, MetaNodeError> {
        let Some(open) = self.shard(shard) else {
            return Ok(true);
        };
        let machine = Arc::clone(&open.machine);
        Ok(self.runtime.blocking(move || machine.is_blank()).await??)
    }

    /// Opens a replica and follows what becomes of it. One that is open stays as it is.
    fn open_shard(
        self: &Arc<Self>,
        shard: ShardId,
        home: SlabId,
    ) -> Pin<Box<dyn Future<Output = Result<(), MetaNodeError>> + Send>> {
        let meta = Arc::clone(self);
        // Boxed: following a shard may open its children, which are followed in turn.
        Box::pin(async move {
            if meta.shard(shard).is_some() {
                return Ok(());
            }
            let Some(_opening) = Opening::begin(&meta, shard) else {
                return Err(MetaNodeError::Raft(RaftError::NotNow(
                    "the shard is being opened",
                )));
            };
            let store = Arc::clone(&meta.kv);
            let claims = meta.claims.clone();
            let machine = move || ShardMachine::open(store, shard, home, claims);
            let machine = meta.runtime.blocking(machine).await??;
            // Before the group is opened: that applies again what is in the log.
            let opened_at = machine.watch().borrow().epoch;
            let group = meta.host.open(shard, machine.clone()).await?;
            // A leader that restarts may lead on in its old term: ids of its lives must differ.
            let first_id = u32::try_from(meta.runtime.entropy().below(1 << 31));
            let opened = Arc::new(Shard {
                group,
                machine,
                ids: Arc::new(AtomicU32::new(first_id.unwrap_or_default())),
                closed: meta.runtime.shutdown().child_token(),
            });
            meta.shards.write().insert(shard, Arc::clone(&opened));
            let following = children::follow(Arc::clone(&meta), Arc::clone(&opened), opened_at);
            meta.runtime.spawn(following);
            meta.runtime
                .spawn(reporting::run(Arc::clone(&meta), opened));
            Ok(())
        })
    }
}

/// Held while a shard is being opened or closed.
struct Opening<'m> {
    meta: &'m MetaNode,
    shard: ShardId,
}

impl<'m> Opening<'m> {
    fn begin(meta: &'m MetaNode, shard: ShardId) -> Option<Self> {
        let mut opening = meta.opening.lock();
        if opening.contains(&shard) {
            return None;
        }
        opening.push(shard);
        Some(Self { meta, shard })
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.meta
            .opening
            .lock()
            .retain(|shard| *shard != self.shard);
    }
}
