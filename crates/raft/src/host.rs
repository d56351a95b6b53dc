//! All groups of one node over its one store.
//!
//! Invariants:
//! * an opening runs to its end whatever becomes of its caller, and is undone when nobody takes
//!   its group;
//! * the syncs end after every group has: a clean stop fails nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use granary_kv::{Kv, KvError, Space, WriteBatch};
use granary_runtime::{GroupCommit, Runtime};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::clocks::Clocks;
use crate::group::{CALLS_MAX, Group, Parts};
use crate::handle::Receiver;
use crate::health::{Health, HostHealth, RaftFailure};
use crate::lease::{SleepDetector, Standing};
use crate::log_key::{shard_end, shard_start};
use crate::log_store::{Keep, LogEnvironment, LogStore, ROOM_BYTES};
use crate::machine::{Machine, MachineView};
use crate::network::{Sender, Sending};
use crate::promise::Promise;
use crate::proposer::Proposer;
use crate::snapshot::Stage;
use crate::types::{Raft, seeded};
use crate::{
    RaftConfig, RaftError, RaftReply, RaftRequest, RaftTransport, StateMachine, StateMachineError,
};

/// Snapshots that a node sends at once, over all its groups.
const SNAPSHOTS_SENT_MAX: usize = 2;

/// How often a node that was removed looks whether it leads something; an election that an attempt to
/// hand over may end in is over by then.
const GIVE_AWAY_INTERVAL: Duration = Duration::from_secs(5);

/// One per node: owns the stream of syncs over the store and the node's groups.
pub struct RaftHost {
    inner: Arc<Inner>,
    /// What opens groups; ends before they are stopped.
    openings: Runtime,
}

/// What opening a group needs.
struct Inner {
    runtime: Runtime,
    node: NodeId,
    config: RaftConfig,
    kv: Arc<dyn Kv>,
    transport: Arc<dyn RaftTransport>,
    syncs: GroupCommit<KvError>,
    snapshots: Arc<Semaphore>,
    clocks: Clocks,
    log_room: Arc<AtomicU64>,
    removed: watch::Sender<Option<Duration>>,
    health: HostHealth,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    /// `None` while a group is being opened or an opening is undone.
    open: BTreeMap<ShardId, Option<Group>>,
    /// Groups that take no requests of peers: they may be about to be closed.
    sealed: BTreeSet<ShardId>,
    stopping: bool,
}

impl std::fmt::Debug for RaftHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHost")
            .field("node", &self.inner.node)
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
        let health = HostHealth::default();
        let (synced, told) = (Arc::clone(&kv), health.clone());
        let syncs = GroupCommit::start(&runtime, KvError::Closed, move || {
            synced.sync().inspect_err(|error| told.fail(None, error))
        });
        let openings = runtime.child();
        let inner = Inner {
            clocks: Clocks::new(runtime.clone()),
            log_room: Arc::new(AtomicU64::new(ROOM_BYTES)),
            removed: watch::Sender::new(None),
            runtime,
            node,
            config,
            kv,
            transport,
            syncs,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_SENT_MAX)),
            health,
            groups: Mutex::default(),
        };
        let inner = Arc::new(inner);
        inner.runtime.spawn(when_removed(Arc::clone(&inner)));
        Arc::new(Self { inner, openings })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Waits until everything written to the store before this call is durable.
    ///
    /// # Errors
    /// The sync's error, which is final for the store.
    pub async fn synced(&self) -> Result<(), KvError> {
        self.inner.syncs.synced().await
    }

    /// Waits for the first failure of the store, or of a shard's log or state machine; for ever if
    /// there is none. Nothing is acknowledged by what failed, and it does not recover: the process
    /// should say so and end.
    pub async fn failed(&self) -> RaftFailure {
        self.inner.health.failed().await
    }

    /// How many bytes each shard's log may have while a peer is being sent a snapshot, which needs
    /// everything since then: a share of what is free under the store. A gibibyte until it is said.
    pub fn set_log_room(&self, bytes: u64) {
        self.inner.log_room.store(bytes, Ordering::Relaxed);
    }

    /// The first failure, if there was one; see [`RaftHost::failed`].
    pub fn failure(&self) -> Option<RaftFailure> {
        self.inner.health.failure()
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
        self.inner.reserve(shard)?;
        let (answer, opened) = oneshot::channel();
        let (take, taken) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        self.openings.spawn(async move {
            match inner.open_group(shard, machine).await {
                Ok(group) => {
                    // A caller that went away does not take it, either.
                    let _ = answer.send(Ok(group.clone()));
                    if taken.await.is_ok() {
                        return;
                    }
                    group.stop().await;
                    inner.groups.lock().open.remove(&shard);
                }
                Err(error) => {
                    inner.groups.lock().open.remove(&shard);
                    let _ = answer.send(Err(error));
                }
            }
        });
        let Ok(opened) = opened.await else {
            return Err(RaftError::Stopped("the node stops".to_owned()));
        };
        let group = opened?;
        let mut groups = self.inner.groups.lock();
        if groups.stopping {
            return Err(RaftError::Stopped("the node stops".to_owned()));
        }
        groups.open.insert(shard, Some(group.clone()));
        // No wait since the group came: nobody can go away in between.
        let _ = take.send(());
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
        if self.inner.groups.lock().sealed.contains(&shard) {
            return Err(RaftError::NotNow("the replica may be about to be closed"));
        }
        self.get(shard)?.handle(request).await
    }

    /// True while the shard's replica here takes no requests of peers; see [`RaftHost::seal`].
    pub fn is_sealed(&self, shard: ShardId) -> bool {
        self.inner.groups.lock().sealed.contains(&shard)
    }

    /// Whether a node is a member of a shard (`None`: of any), as far as the replicas here know.
    pub fn has_member(&self, shard: Option<ShardId>, node: NodeId) -> bool {
        let groups = match shard {
            Some(shard) => self.group(shard).into_iter().collect(),
            None => self.groups(),
        };
        groups.iter().any(|group| {
            let members = group.members();
            members.voters.contains(&node) || members.learners.contains(&node)
        })
    }

    /// Takes no request of a peer for a shard until the seal is dropped: what other members know of
    /// this replica stays as it is. Whoever wants to close a replica seals it first, and asks then
    /// whether it is still a member.
    pub fn seal(&self, shard: ShardId) -> Seal {
        self.inner.groups.lock().sealed.insert(shard);
        Seal {
            inner: Arc::clone(&self.inner),
            shard,
        }
    }

    /// Stops a sealed replica and forgets its log and its vote, in one durable write with what `last`
    /// makes, which is called when nothing is applied any more and may block. Only for a replica that is no member any more by what a majority has agreed to since it was
    /// sealed: as a member it would break what it has acknowledged and promised.
    ///
    /// # Errors
    /// [`RaftError::UnknownShard`], [`RaftError::NotNow`] when its tasks have not ended in time (it
    /// has stopped, and nothing is forgotten), [`RaftError::Kv`].
    pub async fn close<F>(&self, seal: &Seal, last: F) -> Result<(), RaftError>
    where
        F: FnOnce() -> Result<WriteBatch, StateMachineError> + Send + 'static,
    {
        let shard = seal.shard;
        let group = self.get(shard)?;
        if !group.stop().await {
            return Err(RaftError::NotNow("the replica is still busy"));
        }
        let kv = Arc::clone(&self.inner.kv);
        let forget = move || -> Result<(), RaftError> {
            let mut batch = last()?;
            batch.delete_range(Space::Log, shard_start(shard), shard_end(shard));
            Ok(kv.write(batch)?)
        };
        let written = self.inner.runtime.blocking(forget).await;
        written.map_err(|error| RaftError::Stopped(error.to_string()))??;
        self.synced().await?;
        self.inner.groups.lock().open.remove(&shard);
        Ok(())
    }

    /// The shard's replica, when it is open.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        self.inner.groups.lock().open.get(&shard).cloned().flatten()
    }

    /// Every open group, by shard.
    pub fn groups(&self) -> Vec<Group> {
        let groups = self.inner.groups.lock();
        groups.open.values().flatten().cloned().collect()
    }

    fn get(&self, shard: ShardId) -> Result<Group, RaftError> {
        self.group(shard).ok_or(RaftError::UnknownShard(shard))
    }

    /// Stops every group, makes what was written durable and ends the host's tasks. In this order:
    /// nothing new is taken, what is in flight is answered, the groups end and with them what
    /// applies their entries, then the tasks, then the last sync. Nothing of the host touches the
    /// store afterwards.
    ///
    /// # Errors
    /// The last sync's error.
    pub async fn stop(&self) -> Result<(), KvError> {
        let groups = {
            let mut groups = self.inner.groups.lock();
            groups.stopping = true;
            std::mem::take(&mut groups.open)
        };
        self.openings.stop().await;
        let groups: Vec<Group> = groups.into_values().flatten().collect();
        join_all(groups.iter().map(Group::stop)).await;
        let runtime = &self.inner.runtime;
        runtime.stop().await;
        let kv = Arc::clone(&self.inner.kv);
        let synced = runtime.blocking(move || kv.sync()).await;
        synced.unwrap_or(Err(KvError::Closed))
    }
}

/// While this node is told that it was removed from the cluster: gives away what it leads, since clients
/// do not find it any more. As a member it votes and stores until it is let go. What it was told once may
/// have been wrong: it counts as long as it is said again.
async fn when_removed(inner: Arc<Inner>) {
    let giving_away = async {
        let mut removed = inner.removed.subscribe();
        let mut said = false;
        let mut asked: BTreeMap<ShardId, BTreeSet<NodeId>> = BTreeMap::new();
        loop {
            let lately = |told: &Option<Duration>| {
                let now = inner.runtime.monotonic();
                told.is_some_and(|at| now.saturating_sub(at) <= GIVE_AWAY_INTERVAL)
            };
            // An error: cannot be, `inner` has the sender.
            let _ = removed.wait_for(lately).await;
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    "this node was removed from the cluster: it hands over what it leads"
                );
            }
            let open: Vec<Group> = {
                let groups = inner.groups.lock();
                groups.open.values().flatten().cloned().collect()
            };
            let giving = open.into_iter().map(|group| {
                let mut asked = asked.remove(&group.shard()).unwrap_or_default();
                async move {
                    group.give_away(&mut asked).await;
                    (group.shard(), asked)
                }
            });
            asked = join_all(giving).await.into_iter().collect();
            inner.runtime.sleep(GIVE_AWAY_INTERVAL).await;
        }
    };
    let shutdown = inner.runtime.shutdown().clone();
    shutdown.run_until_cancelled(giving_away).await;
}

/// Keeps requests of peers away from one replica until it is dropped.
pub struct Seal {
    inner: Arc<Inner>,
    shard: ShardId,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Seal").field(&self.shard).finish()
    }
}

impl Drop for Seal {
    fn drop(&mut self) {
        self.inner.groups.lock().sealed.remove(&self.shard);
    }
}

impl Inner {
    fn reserve(&self, shard: ShardId) -> Result<(), RaftError> {
        let mut groups = self.groups.lock();
        if groups.stopping {
            return Err(RaftError::Stopped("the node stops".to_owned()));
        }
        if groups.open.contains_key(&shard) {
            return Err(RaftError::AlreadyOpen(shard));
        }
        groups.open.insert(shard, None);
        Ok(())
    }

    /// Loads what the store holds of a shard. Blocks.
    fn load(
        &self,
        shard: ShardId,
        machine: Arc<dyn StateMachine>,
        stage: Stage,
        health: Health,
    ) -> Result<(LogStore, Machine, MachineView), RaftError> {
        let environment = LogEnvironment {
            kv: Arc::clone(&self.kv),
            runtime: self.runtime.clone(),
            syncs: self.syncs.clone(),
            health,
            page_bytes: self.config.message_bytes,
            room: Arc::clone(&self.log_room),
            keep: Keep {
                bytes: self.config.keep_bytes,
                entries: self.config.keep_entries,
                slack_entries: self.config.snapshot_every_entries,
            },
        };
        let log = LogStore::open(shard, environment)?;
        let (machine, view) = Machine::open(shard, machine, log.clone(), stage)?;
        if log.purged() > view.applied.borrow().id {
            let reason = "the state machine lacks entries that were cut from it".to_owned();
            return Err(RaftError::CorruptLog { shard, reason });
        }
        Ok((log, machine, view))
    }

    fn sender(&self, shard: ShardId, sending: Sending, promise: Promise) -> Sender {
        Sender {
            node: self.node,
            shard,
            runtime: self.runtime.clone(),
            transport: Arc::clone(&self.transport),
            message_timeout: Duration::from_millis(self.config.message_timeout_ms),
            lease: self.config.lease(),
            promise,
            clocks: self.clocks.clone(),
            removed: self.removed.clone(),
            snapshots: Arc::clone(&self.snapshots),
            sending,
        }
    }

    async fn open_group(
        self: &Arc<Self>,
        shard: ShardId,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Group, RaftError> {
        let (lease, lease_most) = (self.config.lease(), self.config.lease_most());
        let stage = Stage::new(shard, Arc::clone(&self.kv));
        let health = Health::new(shard, self.health.clone());
        let (inner, staged, told) = (Arc::clone(self), stage.clone(), health.clone());
        let restored = Arc::clone(&machine);
        let load = move || inner.load(shard, machine, staged, told);
        let loaded = self.runtime.blocking(load).await;
        let (log, machine, view) =
            loaded.map_err(|error| RaftError::Stopped(error.to_string()))??;
        // See `handle`: whoever may have promised something before a restart waits for a lease.
        let promised = log.has_history();
        let config = self.config.validated(!promised)?;
        let seed = self.runtime.entropy().next_u64();
        let (sending, promise) = (Sending::default(), Promise::default());
        let starting = Raft::new(
            self.node.0,
            config,
            self.sender(shard, sending.clone(), promise.clone()),
            log.clone(),
            machine,
        );
        let raft = Box::pin(seeded(seed, starting)).await;
        let raft = raft.map_err(|error| RaftError::Stopped(error.to_string()))?;
        let standing = Standing::new(
            self.node,
            raft.clone(),
            view.applied,
            health,
            self.clocks.clone(),
        );
        let quarantine = promised.then(|| self.runtime.monotonic() + lease_most);
        let patience = Duration::from_millis(self.config.snapshot_timeout_ms / 5);
        let receiver = Receiver::new(
            raft,
            self.runtime.clone(),
            (restored, stage),
            (quarantine, promise),
            patience,
        );
        let parts = Parts {
            shard,
            node: self.node,
            lease,
            proposer: Proposer::start(&self.runtime, standing.clone(), &self.config),
            receiver,
            clocks: SleepDetector::new(self.runtime.clone(), lease),
            standing,
            log,
            alive: tokio::sync::Mutex::new(view.alive),
            calls: Semaphore::new(CALLS_MAX as usize),
            runtime: self.runtime.clone(),
        };
        let group = Group::start(parts, sending);
        if promised {
            group.campaign_after(lease_most);
        }
        match group.start_alone().await {
            Ok(()) => Ok(group),
            Err(error) => {
                group.stop().await;
                Err(error)
            }
        }
    }
}
