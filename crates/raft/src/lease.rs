//! Reads without a quorum round: who leads, under which lease, and by which clock.
//!
//! A read is three steps: [`Group::begin_read`](crate::Group::begin_read), take the store's
//! snapshot, [`LeaseRead::confirm`]. The first step checks that this node leads a term whose first
//! entry it has applied, so the snapshot holds everything that was acknowledged before; the last
//! one proves that the same term was still in force after the snapshot was taken. Without the
//! first step a node that is elected between snapshot and check would serve a stale view.
//!
//! The lease is as long as the longest election timeout of the leader, three seconds at most, counted
//! from when a heartbeat that a quorum answered was sent. Every heartbeat says how long it is, and
//! whoever answers keeps out of elections for that time (`promise`): nodes with other timeouts do no
//! harm. Only nine tenths of it are used, so clocks may differ in rate by up to 10 %. The library
//! measures with a clock that stands still while the machine sleeps. So it is compared with the
//! runtime's clock that does not: after a sleep the lease is not trusted until it must have been
//! renewed.
//!
//! What the library published last is enough for the proof (`Standing::lease_holds`): a quorum that
//! answered a heartbeat keeps its word whether or not the library's task has said more since. Two things
//! it may not have said yet end a lease early, and this node itself begins both: a hand-over, which is
//! an election in spite of the promises, and other voters beside a sole one. From then on the library's
//! task is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_runtime::Runtime;
use granary_types::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError as ApiError};
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::type_config::TypeConfigExt as _;
use openraft::{LinearizerOption, ServerState};
use openraft_rt_tokio::TokioWatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::Instant;

use crate::NotLeader;
use crate::clocks::Clocks;
use crate::health::{Health, State};
use crate::machine::Applied;
use crate::types::{Raft, Types};

/// Entries that a voter may lack which is asked to take over: it has them within a moment.
const LAG_ENTRIES_MAX: u64 = 1000;
/// After a hand-over began: longer than any lease from before.
const HAND_OVER_DOUBT: Duration = Duration::from_secs(60);
/// Difference between the two clocks that is not taken for a sleep.
const SLEEP_MIN: Duration = Duration::from_millis(20);

/// What this node is to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It leads this term and has applied the term's first entry.
    Leading(u64),
    /// It leads, but has not applied the term's first entry yet.
    Starting,
    /// Another node leads, or none that is known. Also what a group is that was stopped or failed
    /// on this node.
    Following(Option<NodeId>),
}

/// Reads the group's role and applied position. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Standing {
    node: NodeId,
    raft: Raft,
    metrics: TokioWatchReceiver<RaftServerMetrics<Types>>,
    all_metrics: TokioWatchReceiver<RaftMetrics<Types>>,
    applied: watch::Receiver<Applied>,
    health: Health,
    state: watch::Receiver<State>,
    clocks: Clocks,
    unsettled: Arc<Unsettled>,
}

/// What this node began that may end a lease before its time.
#[derive(Debug, Default)]
struct Unsettled {
    /// Other voters: for good, since what was published of them may be late.
    members: AtomicBool,
    /// A hand-over, and until when a lease from before could last.
    handed_over: Mutex<Option<Instant>>,
}

impl Standing {
    pub(crate) fn new(
        node: NodeId,
        raft: Raft,
        applied: watch::Receiver<Applied>,
        health: Health,
        clocks: Clocks,
    ) -> Self {
        Self {
            node,
            clocks,
            metrics: raft.server_metrics(),
            all_metrics: raft.metrics(),
            unsettled: Arc::default(),
            raft,
            applied,
            state: health.watch(),
            health,
        }
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Whether the group still runs on this node.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn applied(&self) -> Applied {
        *self.applied.borrow()
    }

    pub(crate) fn role(&self) -> Role {
        // What the library last said stays as it is when it stops.
        if !self.health.is_running() {
            return Role::Following(None);
        }
        let (state, vote, leader) = {
            let metrics = self.metrics.borrow_watched();
            (metrics.state, metrics.vote, metrics.current_leader)
        };
        let leads = state == ServerState::Leader
            && vote.committed
            && vote.leader_id.voted_for == self.node.0;
        if !leads {
            // A vote that is not yet its own again must not send callers in a circle.
            let leader = leader.map(NodeId).filter(|leader| *leader != self.node);
            return Role::Following(leader);
        }
        let term = vote.leader_id.term;
        match self.applied().id {
            Some(id) if id.leader_id.term == term => Role::Leading(term),
            _ => Role::Starting,
        }
    }

    /// True when what was published proves that this node leads `term` now: it is the only voter, or a
    /// quorum has answered a heartbeat that was sent within `lease`.
    fn lease_holds(&self, term: u64, lease: Duration) -> bool {
        if self.role() != Role::Leading(term) {
            return false;
        }
        let metrics = self.all_metrics.borrow_watched();
        if metrics.current_term != term {
            return false;
        }
        if self.is_sole_voter(&metrics) {
            return !self.unsettled.members.load(Ordering::SeqCst);
        }
        let handed_over = *self.unsettled.handed_over.lock();
        if handed_over.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let acked = metrics.last_quorum_acked.as_deref();
        acked.is_some_and(|acked| Types::now() < *acked + lease)
    }

    /// True when no other node votes, as far as is known.
    pub(crate) fn votes_alone(&self) -> bool {
        self.is_sole_voter(&self.all_metrics.borrow_watched())
    }

    fn is_sole_voter(&self, metrics: &RaftMetrics<Types>) -> bool {
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.all(|voter| voter == self.node.0)
    }

    /// A hand-over begins: the next leader need not wait for the lease, and this one sends no more
    /// heartbeats that could renew it.
    pub(crate) fn hands_over(&self) {
        *self.unsettled.handed_over.lock() = Some(Instant::now() + HAND_OVER_DOUBT);
    }

    /// Who votes is going to change.
    pub(crate) fn changes_members(&self) {
        self.unsettled.members.store(true, Ordering::SeqCst);
    }

    /// How far the clocks of the voters are from their median; see [`Clocks::off`].
    pub(crate) fn clocks_off(&self) -> Option<BTreeMap<NodeId, i64>> {
        let voters: Vec<NodeId> = {
            let metrics = self.metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids();
            voters
                .collect::<BTreeSet<u64>>()
                .into_iter()
                .map(NodeId)
                .collect()
        };
        let stamped_ms = self.applied().time_ms;
        self.clocks.off(self.node, &voters, stamped_ms)
    }

    /// Asks the voter to take over that has most of the log, of those that are `able`, and of them one
    /// that has answered lately: a dead one may have all of a log that nothing is added to. It is elected
    /// at once. Should it not be, the library's leader is silent from here on, and another voter is
    /// elected: this node does not campaign, since it takes itself for the leader until it hears of
    /// another one. Returns whom it asked.
    pub(crate) async fn hand_over(&self, able: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let heir = {
            let watched = self.raft.metrics();
            let metrics = watched.borrow_watched();
            let last = metrics.last_log_index.unwrap_or_default();
            let matched = metrics.replication.iter().flatten();
            let known = matched.filter_map(|(node, id)| Some((id.as_ref()?.index, *node)));
            let voters = metrics.membership_config.membership();
            let near = known.filter(|(index, node)| {
                let votes = voters.voter_ids().any(|voter| voter == *node);
                votes && *node != self.node.0 && index + LAG_ENTRIES_MAX >= last
            });
            let able = near.filter(|(_, node)| able(NodeId(*node)));
            able.max_by_key(|(index, node)| {
                (self.clocks.heard_lately(NodeId(*node)), *index, *node)
            })
        };
        let (_, heir) = heir?;
        self.hands_over();
        if self.raft.trigger().transfer_leader(heir).await.is_err() {
            tracing::debug!(heir, "not handed over: the group stops");
        }
        Some(NodeId(heir))
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// What a caller is told when this node can't serve it.
    pub(crate) fn not_leader(&self) -> NotLeader {
        match self.role() {
            Role::Following(leader) => NotLeader { leader },
            Role::Leading(_) | Role::Starting => NotLeader { leader: None },
        }
    }

    /// Waits until role or applied position changed after the last such wait; false when the group
    /// has stopped.
    pub(crate) async fn changed(&mut self) -> bool {
        if !self.health.is_running() {
            return false;
        }
        tokio::select! {
            biased;
            _ = self.state.changed() => false,
            changed = self.metrics.changed() => changed.is_ok(),
            changed = self.applied.changed() => changed.is_ok(),
        }
    }
}

/// Notices that the machine slept, which the consensus library's clock does not count.
pub(crate) struct SleepDetector {
    runtime: Runtime,
    origin: (Duration, Instant),
    lease: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    slept: Duration,
    distrust_until: Option<Instant>,
}

impl SleepDetector {
    pub(crate) fn new(runtime: Runtime, lease: Duration) -> Self {
        let origin = (runtime.monotonic(), Instant::now());
        Self {
            runtime,
            origin,
            lease,
            seen: Mutex::new(Seen::default()),
        }
    }

    /// True unless a lease could have been granted before a sleep.
    fn lease_is_trusted(&self) -> bool {
        let now = Instant::now();
        let counted = self.runtime.monotonic().saturating_sub(self.origin.0);
        let slept = counted.saturating_sub(now - self.origin.1);
        let mut seen = self.seen.lock();
        if slept > seen.slept + SLEEP_MIN {
            seen.slept = slept;
            seen.distrust_until = Some(now + self.lease);
        }
        seen.distrust_until.is_none_or(|until| now >= until)
    }
}

/// A read under way: begun before the snapshot, confirmed after it.
#[must_use = "a snapshot may be stale until the read is confirmed"]
pub struct LeaseRead<'a> {
    pub(crate) standing: &'a Standing,
    pub(crate) clocks: &'a SleepDetector,
    pub(crate) lease: Duration,
    pub(crate) term: u64,
    /// The group stops only after it.
    pub(crate) _call: SemaphorePermit<'a>,
}

impl std::fmt::Debug for LeaseRead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseRead")
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

impl LeaseRead<'_> {
    /// Proves that what a snapshot taken since the beginning of this read shows is current: by the
    /// lease, or, where that is stale or not trusted, by asking a quorum.
    ///
    /// # Errors
    /// [`NotLeader`] when neither proves it within a third of the lease; the snapshot must not be
    /// used.
    pub async fn confirm(self) -> Result<(), NotLeader> {
        let usable = self.lease / 10 * 9;
        if self.standing.lease_holds(self.term, usable) && self.clocks.lease_is_trusted() {
            return Ok(());
        }
        let by_lease = LinearizerOption::new(Some(usable), false).with_wait_timeout(Duration::ZERO);
        if let Proof::Holds = self.prove(by_lease).await?
            && self.clocks.lease_is_trusted()
        {
            return Ok(());
        }
        match self.prove(by_quorum(self.lease / 3)).await? {
            Proof::Holds => Ok(()),
            Proof::Stale => Err(NotLeader { leader: None }),
        }
    }

    async fn prove(&self, option: LinearizerOption) -> Result<Proof, NotLeader> {
        match self.standing.raft().get_read_linearizer(option).await {
            Ok(proof) if proof.read_log_id().committed_leader_id().term == self.term => {
                Ok(Proof::Holds)
            }
            Ok(_) => Err(self.standing.not_leader()),
            Err(error) => stale_or_not_leader(self.standing, error),
        }
    }
}

enum Proof {
    Holds,
    Stale,
}

/// The proof by a heartbeat round that begins after the call.
pub(crate) fn by_quorum(limit: Duration) -> LinearizerOption {
    LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(limit)
}

fn stale_or_not_leader(
    standing: &Standing,
    error: ApiError<Types, LinearizableReadError<Types>>,
) -> Result<Proof, NotLeader> {
    match error {
        ApiError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Ok(Proof::Stale),
        ApiError::APIError(LinearizableReadError::ForwardToLeader(forward)) => Err(NotLeader {
            leader: forward.leader_id.map(NodeId),
        }),
        _ => Err(standing.not_leader()),
    }
}
