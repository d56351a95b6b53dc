//! One shard's replica on this node: what the metadata service works with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_runtime::{Runtime, within};
use granary_types::{NodeId, ShardId};
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError as ApiError};
use openraft::raft::ClientWriteResponse;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::clocks::{is_right, is_wrong};
use crate::handle::Receiver;
use crate::health::State;
use crate::lease::{LeaseRead, Role, SleepDetector, Standing, by_quorum};
use crate::log_store::LogStore;
use crate::network::Sending;
use crate::proposer::Proposer;
use crate::retention;
use crate::types::{Membership, Raft, Types, seeded};
use crate::{
    AppliedEntries, LogPosition, NotLeader, ProposeError, RaftError, RaftReply, RaftRequest,
};

/// A leader has heard by then from all members that are there: some heartbeats.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Longest wait for a sole voter to have applied its log.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Calls of one group at once that a stop waits for.
pub(crate) const CALLS_MAX: u32 = 1 << 20;
/// How long a stop waits for what is in flight; with a majority there it takes milliseconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long a stop waits until the library's tasks have ended: a write batch that is being applied
/// on a slow disk, or a snapshot that is being installed.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Who takes part in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Nodes that vote, ascending. While a change is under way: those of both sets.
    pub voters: Vec<NodeId>,
    /// Nodes that only follow, ascending.
    pub learners: Vec<NodeId>,
    /// True while a change of voters is under way.
    pub changing: bool,
}

impl Members {
    fn of(membership: &Membership) -> Self {
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        Self {
            voters: voters.into_iter().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            changing: membership.get_joint_config().len() > 1,
        }
    }
}

/// A group's numbers at one moment, for metrics and the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetrics {
    /// The shard.
    pub shard: ShardId,
    /// The current term.
    pub term: u64,
    /// Who leads, as far as known.
    pub leader: Option<NodeId>,
    /// Who takes part.
    pub members: Members,
    /// Index of the newest log entry.
    pub last_index: Option<u64>,
    /// Index of the newest entry known to be committed.
    pub committed_index: Option<u64>,
    /// Index of the newest applied entry.
    pub applied_index: Option<u64>,
    /// Index up to which the log was cut.
    pub purged_index: Option<u64>,
    /// Commands that wait for a log entry.
    pub queued_commands: usize,
    /// At the leader: each peer's newest entry known to be durable there.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// At the leader: voters whose clocks are too far from what a majority's show, and by how much,
    /// in milliseconds (above 0: ahead). None of them stamps.
    pub wrong_clocks: BTreeMap<NodeId, i64>,
    /// False when the group stopped on this node because of an error.
    pub healthy: bool,
    /// True at a leader that no majority has answered for two leases: it can decide nothing.
    pub without_quorum: bool,
}

pub(crate) struct Parts {
    pub(crate) shard: ShardId,
    pub(crate) node: NodeId,
    pub(crate) lease: Duration,
    pub(crate) standing: Standing,
    pub(crate) proposer: Proposer,
    pub(crate) receiver: Receiver,
    pub(crate) clocks: SleepDetector,
    pub(crate) log: LogStore,
    /// Ends with the last task that works with the state machine.
    pub(crate) alive: tokio::sync::Mutex<mpsc::Receiver<()>>,
    /// Held by each call into the library; all of them by a stop.
    pub(crate) calls: Semaphore,
    pub(crate) runtime: Runtime,
}

/// One shard's replica on this node. Clones share it.
#[derive(Clone)]
pub struct Group {
    parts: Arc<Parts>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("shard", &self.parts.shard)
            .finish_non_exhaustive()
    }
}

impl Group {
    pub(crate) fn start(parts: Parts, sending: Sending) -> Self {
        let runtime = &parts.runtime;
        let (standing, log) = (parts.standing.clone(), parts.log.clone());
        let retention = retention::run(runtime.clone(), standing.clone(), log, sending);
        runtime.spawn(retention);
        runtime.spawn(watch_over(runtime.clone(), standing));
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Entered by whatever calls into the library: once the group is stopped, or has failed on
    /// this node, nothing does.
    fn call(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.parts.calls.try_acquire().ok()?;
        self.parts.standing.health().is_running().then_some(permit)
    }

    fn calling(&self) -> Result<SemaphorePermit<'_>, RaftError> {
        self.call().ok_or_else(|| {
            let reason = match self.parts.standing.health().state() {
                State::Failed => "its log or state machine failed",
                State::Stopped | State::Running => "it is closed on this node",
            };
            RaftError::Stopped(reason.to_owned())
        })
    }

    fn raft(&self) -> &Raft {
        self.parts.standing.raft()
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.parts.shard
    }

    /// Proposes a command and waits, for at most `deadline`, until it is durable on a majority and
    /// applied here; the state machine's answer to it.
    ///
    /// # Errors
    /// See [`ProposeError`]; after `Unknown` and `Failed` the command may be applied all the same.
    pub async fn propose(&self, command: Bytes, deadline: Duration) -> Result<Bytes, ProposeError> {
        self.parts.proposer.propose(command, false, deadline).await
    }

    /// As [`Group::propose`], for a command that is costly to apply: it gets a log entry of its own.
    ///
    /// # Errors
    /// As there.
    pub async fn propose_alone(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ProposeError> {
        self.parts.proposer.propose(command, true, deadline).await
    }

    /// First step of a read: call it, then take the store's snapshot, then confirm.
    ///
    /// # Errors
    /// [`NotLeader`]; with `leader: None` also while this node has won an election but has not yet
    /// applied its first entry (see [`Group::wait_ready`]).
    pub fn begin_read(&self) -> Result<LeaseRead<'_>, NotLeader> {
        let call = self.call().ok_or(NotLeader { leader: None })?;
        match self.parts.standing.role() {
            Role::Leading(term) => Ok(LeaseRead {
                standing: &self.parts.standing,
                clocks: &self.parts.clocks,
                lease: self.parts.lease,
                term,
                _call: call,
            }),
            Role::Starting => Err(NotLeader { leader: None }),
            Role::Following(leader) => Err(NotLeader { leader }),
        }
    }

    /// Proves by asking a quorum that this node leads, and waits until it has applied everything
    /// that was acknowledged before the call. A snapshot taken afterwards shows all of that.
    ///
    /// # Errors
    /// [`NotLeader`] when it does not lead or no quorum answers within a lease.
    pub async fn read_barrier(&self) -> Result<(), NotLeader> {
        let _call = self.call().ok_or(NotLeader { leader: None })?;
        let limit = self.parts.lease;
        let barrier = async {
            let proof = self.raft().get_read_linearizer(by_quorum(limit)).await;
            let proof = proof.map_err(|_| self.parts.standing.not_leader())?;
            let applied = proof.try_await_ready(self.raft(), Some(limit)).await;
            match applied {
                Ok(Ok(_)) => Ok(()),
                _ => Err(self.parts.standing.not_leader()),
            }
        };
        within(limit * 2, barrier)
            .await
            .unwrap_or(Err(NotLeader { leader: None }))
    }

    /// Who leads, as far as this node knows (it may be this node).
    pub fn leader(&self) -> Option<NodeId> {
        match self.parts.standing.role() {
            Role::Leading(_) | Role::Starting => Some(self.parts.node),
            Role::Following(leader) => leader,
        }
    }

    /// True when this node leads and has applied its term's first entry.
    pub fn is_leader(&self) -> bool {
        matches!(self.parts.standing.role(), Role::Leading(_))
    }

    fn leads(&self) -> bool {
        matches!(
            self.parts.standing.role(),
            Role::Leading(_) | Role::Starting
        )
    }

    /// True when this node leads, or has acknowledged a leader so lately that the leader may rely on
    /// it. A replica of which that is not true for long may have been forgotten by the others.
    pub fn takes_part(&self) -> bool {
        let now = self.parts.runtime.monotonic();
        self.is_leader() || self.parts.receiver.promise().binds(now)
    }

    /// Who takes part, as a majority has agreed; `None` while a change is under way or not known to
    /// be agreed.
    pub fn agreed_members(&self) -> Option<Members> {
        let watched = self.raft().metrics();
        let (members, since) = {
            let metrics = watched.borrow_watched();
            let stored = &metrics.membership_config;
            let since = stored.log_id().map(|id| id.index);
            (Members::of(stored.membership()), since)
        };
        let agreed = since.is_some() && since <= self.last_applied();
        (agreed && !members.changing).then_some(members)
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raft().metrics().borrow_watched().current_term
    }

    /// Index of the newest applied entry.
    pub fn last_applied(&self) -> Option<u64> {
        self.parts.standing.applied().id.map(|id| id.index)
    }

    /// The newest leader's time among the applied entries, in milliseconds since the epoch.
    pub fn applied_time_ms(&self) -> u64 {
        self.parts.standing.applied().time_ms
    }

    /// Applied entries from index `from` on, about `limit_bytes` of them but at least one.
    ///
    /// # Errors
    /// [`RaftError::Stopped`].
    pub async fn read_applied(
        &self,
        from: u64,
        limit_bytes: usize,
    ) -> Result<AppliedEntries, RaftError> {
        let _call = self.calling()?;
        let end = self.last_applied().map_or(0, |index| index + 1);
        let read = self.parts.log.read_from(from, end, limit_bytes).await;
        let read = read.map_err(|error| RaftError::Stopped(error.to_string()))?;
        let Some(entries) = read else {
            return Ok(AppliedEntries::Cut);
        };
        let encoded = entries.iter().map(|entry| {
            let position = LogPosition::of(&entry.log_id);
            (position, crate::format::encode_entry(entry))
        });
        Ok(AppliedEntries::Found(encoded.collect()))
    }

    /// The last entry that was cut from the log; `None` when it begins with the first one.
    pub fn purged(&self) -> Option<LogPosition> {
        self.parts.log.purged().as_ref().map(LogPosition::of)
    }

    /// Lets the log keep entries from `index` on for [`Group::read_applied`], as long as they are
    /// not many more than it keeps anyway. `None`: nobody reads them any more.
    pub fn keep_log_from(&self, index: Option<u64>) {
        self.parts.log.want_from(index.unwrap_or(u64::MAX));
    }

    /// Who takes part.
    pub fn members(&self) -> Members {
        Members::of(
            self.raft()
                .metrics()
                .borrow_watched()
                .membership_config
                .membership(),
        )
    }

    /// False once the group has stopped on this node because its log or state machine failed. It
    /// leads no more then, and [`RaftHost::failed`](crate::RaftHost::failed) says why.
    pub fn is_healthy(&self) -> bool {
        self.parts.standing.health().state() != State::Failed
    }

    /// True when, as far as this node knows as the leader, the clock of `voter` is too far from those
    /// of a majority: it would have to hand over itself if it were asked to lead.
    pub fn has_wrong_clock(&self, voter: NodeId) -> bool {
        let off = self.parts.standing.clocks_off().unwrap_or_default();
        off.get(&voter).is_some_and(|off_ms| !is_right(*off_ms))
    }

    /// The group's numbers now.
    pub fn metrics(&self) -> GroupMetrics {
        let watched = self.raft().metrics();
        let metrics = watched.borrow_watched().clone();
        let silent = metrics.last_quorum_acked.map(|acked| acked.elapsed());
        let members = Members::of(metrics.membership_config.membership());
        // A sole voter asks nobody.
        let without_quorum = self.leads()
            && members.voters.len() > 1
            && silent.is_some_and(|silent| silent > self.parts.lease * 2);
        let matched = metrics.replication.unwrap_or_default().into_iter();
        let mut wrong_clocks = BTreeMap::new();
        if self.leads() {
            wrong_clocks = self.parts.standing.clocks_off().unwrap_or_default();
            wrong_clocks.retain(|_, off_ms| is_wrong(*off_ms));
        }
        GroupMetrics {
            without_quorum,
            wrong_clocks,
            shard: self.parts.shard,
            term: metrics.current_term,
            leader: self.leader(),
            members,
            last_index: metrics.last_log_index,
            committed_index: metrics.local_committed.map(|id| id.index),
            applied_index: self.last_applied(),
            purged_index: metrics.purged.map(|id| id.index),
            queued_commands: self.parts.proposer.queued(),
            matched: matched
                .map(|(node, id)| (NodeId(node), id.map(|id| id.index)))
                .collect(),
            healthy: self.is_healthy(),
        }
    }

    /// Waits, for at most `limit`, until this node leads and can serve, or another leader is
    /// known.
    ///
    /// # Errors
    /// [`NotLeader`] names the other leader, or nobody when none was found in time.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), NotLeader> {
        let mut standing = self.parts.standing.clone();
        let waiting = async {
            loop {
                match standing.role() {
                    Role::Leading(_) => return Ok(()),
                    Role::Following(Some(leader)) => {
                        return Err(NotLeader {
                            leader: Some(leader),
                        });
                    }
                    Role::Following(None) | Role::Starting => {
                        if !standing.changed().await {
                            return Err(NotLeader { leader: None });
                        }
                    }
                }
            }
        };
        within(limit, waiting)
            .await
            .unwrap_or(Err(NotLeader { leader: None }))
    }

    /// Waits, for at most `limit`, until the entry at `index` is applied here; false when it is
    /// not.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> bool {
        let mut standing = self.parts.standing.clone();
        let waiting = async {
            while standing.applied().id.is_none_or(|id| id.index < index) {
                if !standing.changed().await {
                    return false;
                }
            }
            true
        };
        within(limit, waiting).await.unwrap_or(false)
    }

    /// Asks `to` to take over; it does once its log is up to date. Returns when the request is on
    /// its way: watch [`Group::leader`].
    ///
    /// # Errors
    /// [`RaftError::NotLeader`] when this node does not lead, [`RaftError::Membership`] when `to`
    /// does not vote.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), RaftError> {
        let _call = self.calling()?;
        if !self.is_leader() {
            return Err(self.parts.standing.not_leader().into());
        }
        if !self.members().voters.contains(&to) {
            return Err(RaftError::Membership(format!("node {to} is not a voter")));
        }
        self.parts.standing.hands_over();
        let asked = self.raft().trigger().transfer_leader(to.0).await;
        asked.map_err(|error| RaftError::Stopped(error.to_string()))
    }

    /// Asks another voter to take over, if this node leads and one has nearly all of the log. Those
    /// that were asked before come last: they may have to give it away themselves.
    pub(crate) async fn give_away(&self, asked: &mut BTreeSet<NodeId>) {
        let mut heir = self.ask_to_lead(|node| !asked.contains(&node)).await;
        if heir.is_none() && !asked.is_empty() {
            // A leader that has just begun does not know yet who has what.
            self.parts.runtime.sleep(FIRST_ROUND).await;
            heir = self.ask_to_lead(|node| !asked.contains(&node)).await;
        }
        if heir.is_none() {
            heir = self.ask_to_lead(|_| true).await;
            if heir.is_some() {
                asked.clear();
            }
        }
        asked.extend(heir);
    }

    /// Asks the best one of those that are `able`; whom, if this node leads and there is one.
    async fn ask_to_lead(&self, able: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let _call = self.call()?;
        match self.leads() {
            true => self.parts.standing.hand_over(able).await,
            false => None,
        }
    }

    /// From now on this node does not try to lead, and refuses to take over: it is about to stop.
    pub fn leave(&self) {
        self.parts.receiver.leave();
        self.raft().runtime_config().elect(false);
    }

    /// As [`Group::transfer_leader`], and waits until this node has stopped leading, for at most
    /// `limit`.
    ///
    /// # Errors
    /// As there, and [`RaftError::NotNow`] when it leads still.
    pub async fn hand_over(&self, to: NodeId, limit: Duration) -> Result<(), RaftError> {
        self.transfer_leader(to).await?;
        let mut standing = self.parts.standing.clone();
        let led = async {
            while matches!(standing.role(), Role::Leading(_) | Role::Starting) {
                if !standing.changed().await {
                    return;
                }
            }
        };
        let gone = within(limit, led).await;
        gone.map_err(|_| RaftError::NotNow("the other node has not taken over yet"))
    }

    /// Waits until members or leadership differ from what is given; false when the group stopped
    /// on this node.
    pub async fn members_changed(&self, leads: bool, members: &Members) -> bool {
        let mut standing = self.parts.standing.clone();
        while self.is_leader() == leads && self.members() == *members {
            if !standing.changed().await {
                return false;
            }
        }
        true
    }

    /// Adds a node that follows without voting; done when it is a member, which is before it has
    /// caught up. Repeating it is harmless.
    ///
    /// # Errors
    /// See [`Group::change_membership`].
    pub async fn admit_learner(&self, node: NodeId, limit: Duration) -> Result<(), RaftError> {
        let _call = self.calling()?;
        let raft = self.raft();
        let adding = seeded(0, raft.add_learner(node.0, openraft::EmptyNode {}, false));
        self.within_limit(limit, adding).await
    }

    /// Lets every member go that does not vote.
    ///
    /// # Errors
    /// See [`Group::change_membership`].
    pub async fn dismiss_learners(&self, limit: Duration) -> Result<(), RaftError> {
        let _call = self.calling()?;
        let learners: BTreeSet<u64> = self.members().learners.iter().map(|node| node.0).collect();
        if learners.is_empty() {
            return Ok(());
        }
        let change = openraft::ChangeMembers::RemoveNodes(learners);
        let dismissing = seeded(0, self.raft().change_membership(change, false));
        self.within_limit(limit, dismissing).await
    }

    /// Adds a node that follows without voting, and waits until it has caught up, for at most
    /// `limit`. Repeating it is harmless.
    ///
    /// # Errors
    /// [`RaftError::NotNow`] when it has not caught up in time (it goes on), otherwise see
    /// [`Group::change_membership`].
    pub async fn add_learner(&self, node: NodeId, limit: Duration) -> Result<(), RaftError> {
        let _call = self.calling()?;
        let adding = seeded(
            0,
            self.raft()
                .add_learner(node.0, openraft::EmptyNode {}, true),
        );
        match within(limit, adding).await {
            Ok(outcome) => self.changed(outcome),
            Err(_) => Err(RaftError::NotNow("the learner has not caught up yet")),
        }
    }

    /// Makes `voters` the voting members, by way of both sets agreeing (joint consensus). New ones
    /// must be learners already; removed ones leave the group.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::Membership`] (another change is under way, a new
    /// voter is no learner), [`RaftError::NotNow`] when it is not done within `limit` (it may
    /// still come to pass), [`RaftError::Stopped`].
    pub async fn change_membership(
        &self,
        voters: &[NodeId],
        limit: Duration,
    ) -> Result<(), RaftError> {
        let _call = self.calling()?;
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        self.parts.standing.changes_members();
        let changing = seeded(0, self.raft().change_membership(voters, false));
        self.within_limit(limit, changing).await
    }

    async fn within_limit<F>(&self, limit: Duration, changing: F) -> Result<(), RaftError>
    where
        F: Future<
            Output = Result<ClientWriteResponse<Types>, ApiError<Types, ClientWriteError<Types>>>,
        >,
    {
        match within(limit, changing).await {
            Ok(outcome) => self.changed(outcome),
            Err(_) => Err(RaftError::NotNow(
                "the membership change is still under way",
            )),
        }
    }

    fn changed(
        &self,
        outcome: Result<ClientWriteResponse<Types>, ApiError<Types, ClientWriteError<Types>>>,
    ) -> Result<(), RaftError> {
        match outcome {
            Ok(_) => Ok(()),
            Err(ApiError::APIError(ClientWriteError::ForwardToLeader(forward))) => Err(NotLeader {
                leader: forward.leader_id.map(NodeId),
            }
            .into()),
            Err(ApiError::APIError(error)) => Err(RaftError::Membership(error.to_string())),
            Err(ApiError::Fatal(error)) => Err(RaftError::Stopped(error.to_string())),
        }
    }

    pub(crate) async fn handle(&self, request: RaftRequest) -> Result<RaftReply, RaftError> {
        let _call = self.calling()?;
        self.parts.receiver.handle(request).await
    }

    pub(crate) async fn bootstrap(&self, voters: &[NodeId]) -> Result<(), RaftError> {
        let members: BTreeMap<u64, openraft::EmptyNode> = voters
            .iter()
            .map(|node| (node.0, openraft::EmptyNode {}))
            .collect();
        if !members.contains_key(&self.parts.node.0) {
            let node = self.parts.node;
            return Err(RaftError::Membership(format!(
                "node {node} is not among the voters"
            )));
        }
        let call = self.calling()?;
        let formed = seeded(0, self.raft().initialize(members)).await;
        drop(call);
        match formed {
            Ok(()) => self.start_alone().await,
            // Formed already: by an earlier call, or by a peer that was faster.
            Err(ApiError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(ApiError::APIError(error)) => Err(RaftError::Membership(error.to_string())),
            Err(ApiError::Fatal(error)) => Err(RaftError::Stopped(error.to_string())),
        }
    }

    /// A sole voter needs nobody's vote: it is elected at once instead of after a timeout.
    pub(crate) async fn start_alone(&self) -> Result<(), RaftError> {
        let call = self.calling()?;
        let node = self.parts.node.0;
        let alone = self.raft().with_raft_state(move |state| {
            let voters: BTreeSet<u64> = state.membership_state.effective().voter_ids().collect();
            voters == BTreeSet::from([node])
        });
        let stopped = |error: crate::types::Fatal| RaftError::Stopped(error.to_string());
        if !alone.await.map_err(stopped)? {
            return Ok(());
        }
        self.raft().runtime_config().elect(true);
        self.raft().trigger().elect(false).await.map_err(stopped)?;
        drop(call);
        // Everything in the log is committed then, hence being applied. That may take long after a
        // crash: whoever needs it done asks again.
        tokio::select! {
            biased;
            () = self.parts.runtime.shutdown().cancelled() => {
                Err(RaftError::Stopped("the node stops".to_owned()))
            }
            _ = self.wait_ready(READY_LIMIT) => self.calling().map(drop),
        }
    }

    /// Lets the group campaign from `delay` on.
    pub(crate) fn campaign_after(&self, delay: Duration) {
        let (group, runtime) = (self.clone(), self.parts.runtime.clone());
        self.parts.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = runtime.sleep(delay) => {
                    if !group.parts.receiver.is_leaving() {
                        group.raft().runtime_config().elect(true);
                    }
                }
                () = runtime.shutdown().cancelled() => {}
            }
        });
    }

    /// Ends the group: see [`RaftHost::stop`](crate::RaftHost::stop) for the order. False when
    /// something of it was still at work in the end.
    pub(crate) async fn stop(&self) -> bool {
        let parts = &self.parts;
        parts.standing.health().stop();
        let drained = async {
            parts.proposer.drained().await;
            // An error: it is being stopped already.
            let _ = parts.calls.acquire_many(CALLS_MAX).await;
        };
        if within(DRAIN_LIMIT, drained).await.is_err() {
            tracing::debug!(shard = %parts.shard, "stopping with calls in flight");
        }
        parts.calls.close();
        let ended = async {
            // The outcome says only whether the task had panicked, which it has logged.
            let _ = self.raft().shutdown().await;
            while parts.alive.lock().await.recv().await.is_some() {}
        };
        let ended = within(END_LIMIT, ended).await.is_ok();
        if !ended {
            tracing::warn!(shard = %parts.shard, "stopping while the state machine is still busy");
        }
        // Only a hint; the log without it is as good.
        let _ = parts.log.flush_committed().await;
        ended
    }
}

/// Notices when the library ends by itself. Log and state machine have told why, unless it is a
/// fault of the library.
async fn watch_over(runtime: Runtime, standing: Standing) {
    let mut metrics = standing.raft().server_metrics();
    let ended = async { while metrics.changed().await.is_ok() {} };
    tokio::select! {
        biased;
        () = runtime.shutdown().cancelled() => return,
        () = ended => {}
    }
    let state = standing
        .raft()
        .metrics()
        .borrow_watched()
        .running_state
        .clone();
    match state {
        Err(error) => standing.health().fail(&error),
        Ok(()) => standing.health().fail(&"a task of its group panicked"),
    }
}
