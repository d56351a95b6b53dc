//! The receiving half of the protocol: a peer's message to one group of this node.
//!
//! A node helps nobody to lead while the leader that it acknowledged may serve reads (`promise`).
//! A restarted node forgets when it last heard from its leader, so for the longest lease there is it
//! neither votes nor campaigns: otherwise a new leader could be elected while the old one still
//! serves reads under its lease. A leader that hands over asks for the vote itself and is let through.
//!
//! A call may be dropped at any of its waits, since the connection it came by may break: what it
//! had begun to write is finished under its claim before anybody else may write there, and what the
//! state machine promised for it ends with the claim.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use bytes::Bytes;
use granary_kv::KvError;
use granary_runtime::Runtime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest,
};
use parking_lot::Mutex;

use crate::config::LEASE_MOST_MS;
use crate::format::{
    Malformed, entry_from_proto, log_id_from_proto, log_id_to_proto, vote_from_proto, vote_to_proto,
};
use crate::promise::Promise;
use crate::snapshot::{Claim, SnapshotData, Stage, decode_books, meta};
use crate::types::{LogId, Raft, Snapshot, Vote, seeded};
use crate::wire::proto::{self, reply, request};
use crate::wire::{RaftReply, RaftRequest};
use crate::{RaftError, StateMachine, StateMachineError};

impl From<Malformed> for RaftError {
    fn from(error: Malformed) -> Self {
        RaftError::Malformed(error.0)
    }
}

/// How often whoever asks for the outcome of an installation looks.
const POLL: Duration = Duration::from_millis(20);
/// How long the library may take to note that an installation is over.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// A snapshot being received.
struct Incoming {
    transfer: u64,
    bookkeeping: Bytes,
    next: u64,
    /// When its last step was done (monotonic).
    touched: Duration,
    claim: Claim,
}

/// What receiving needs, per group.
pub(crate) struct Receiver {
    raft: Raft,
    runtime: Runtime,
    machine: Arc<dyn StateMachine>,
    stage: Stage,
    /// Until then (monotonic) votes are refused; see the top of the file.
    quarantine: Option<Duration>,
    promise: Promise,
    incoming: Mutex<Option<Incoming>>,
    /// The transfer that was handed over to be installed last, and its position.
    finishing: Mutex<Option<(u64, Option<LogId>)>>,
    /// Set when this node is about to stop: it takes no shard over.
    leaving: AtomicBool,
    /// After this long without a step a transfer is taken for abandoned.
    patience: Duration,
}

fn required<T>(part: Option<T>) -> Result<T, RaftError> {
    part.ok_or(RaftError::Malformed("a required part is missing"))
}

fn stopped(error: impl std::fmt::Display) -> RaftError {
    RaftError::Stopped(error.to_string())
}

impl Receiver {
    pub(crate) fn new(
        raft: Raft,
        runtime: Runtime,
        (machine, stage): (Arc<dyn StateMachine>, Stage),
        (quarantine, promise): (Option<Duration>, Promise),
        patience: Duration,
    ) -> Self {
        Self {
            raft,
            runtime,
            machine,
            stage,
            quarantine,
            promise,
            incoming: Mutex::new(None),
            finishing: Mutex::new(None),
            leaving: AtomicBool::new(false),
            patience,
        }
    }

    pub(crate) fn leave(&self) {
        self.leaving.store(true, Atomic::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Atomic::Relaxed)
    }

    pub(crate) async fn handle(&self, request: RaftRequest) -> Result<RaftReply, RaftError> {
        let body = match request.0 {
            request::Body::Append(call) => reply::Body::Append(self.append(call).await?),
            request::Body::Vote(call) => reply::Body::Vote(self.vote(call).await?),
            request::Body::SnapshotBegin(call) => self.snapshot(self.begin(call).await?),
            request::Body::SnapshotChunk(call) => self.snapshot(self.chunk(call).await?),
            request::Body::SnapshotFinish(call) => self.snapshot(self.finish(call).await?),
            request::Body::TransferLeader(call) => {
                reply::Body::TransferLeader(self.transfer_leader(call).await?)
            }
        };
        Ok(RaftReply(body))
    }

    pub(crate) fn promise(&self) -> &Promise {
        &self.promise
    }

    fn snapshot(&self, vote: Option<Vote>) -> reply::Body {
        reply::Body::Snapshot(proto::SnapshotReply {
            vote: vote.as_ref().map(vote_to_proto),
        })
    }

    async fn append(&self, call: proto::Append) -> Result<proto::AppendReply, RaftError> {
        use proto::append_reply::Outcome;
        self.drop_abandoned().await?;
        let entries = call
            .entries
            .into_iter()
            .map(entry_from_proto)
            .collect::<Result<Vec<_>, _>>()?;
        // What the group began with is not in its log.
        if call.previous.is_none()
            && !entries.is_empty()
            && self.asking(|machine| machine.is_blank()).await?
        {
            return Err(RaftError::NotNow("this replica needs a snapshot first"));
        }
        let request = AppendEntriesRequest {
            vote: vote_from_proto(required(call.vote)?),
            prev_log_id: call.previous.map(log_id_from_proto),
            entries,
            leader_commit: call.committed.map(log_id_from_proto),
        };
        let lease = Duration::from_millis(match call.lease_ms {
            0 => LEASE_MOST_MS,
            lease_ms => lease_ms,
        });
        // The leader counts from before it sent this, and storing it may take longer than the
        // library's own promise holds. An older leader than the known one is promised nothing.
        let known = self.raft.metrics().borrow_watched().vote;
        if request.vote >= known {
            self.promise.give(self.runtime.monotonic(), lease);
        }
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            // What was not the newest vote above may be by now.
            self.promise.give(self.runtime.monotonic(), lease);
        }
        let outcome = match response {
            AppendEntriesResponse::Success => Outcome::Success(proto::Blank {}),
            AppendEntriesResponse::PartialSuccess(matched) => {
                Outcome::Partial(proto::PartialSuccess {
                    matched: matched.as_ref().map(log_id_to_proto),
                })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(proto::Blank {}),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote_to_proto(&vote)),
        };
        Ok(proto::AppendReply {
            outcome: Some(outcome),
            wall_ms: self.runtime.now().as_millis(),
            // Only whoever knows the sender's certificate can say.
            sender_removed: false,
        })
    }

    async fn vote(&self, call: proto::VoteCall) -> Result<proto::VoteReply, RaftError> {
        let now = self.runtime.monotonic();
        if !call.leadership_transfer {
            if self.quarantine.is_some_and(|until| now < until) {
                return Err(RaftError::NotNow(
                    "this node restarted less than a lease ago",
                ));
            }
            if self.promise.binds(now) {
                return Err(RaftError::NotNow(
                    "this node acknowledged a leader less than its lease ago",
                ));
            }
        }
        let mut request = VoteRequest::new(
            vote_from_proto(required(call.vote)?),
            call.last.map(log_id_from_proto),
        );
        request.leadership_transfer = call.leadership_transfer;
        let response = if call.pre_vote {
            self.raft.pre_vote(request).await
        } else {
            self.raft.vote(request).await
        };
        let response = response.map_err(stopped)?;
        Ok(proto::VoteReply {
            vote: Some(vote_to_proto(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(log_id_to_proto),
            wall_ms: self.runtime.now().as_millis(),
        })
    }

    async fn asking<F>(&self, call: F) -> Result<bool, RaftError>
    where
        F: FnOnce(&dyn StateMachine) -> Result<bool, StateMachineError> + Send + 'static,
    {
        let machine = Arc::clone(&self.machine);
        let call = move || call(machine.as_ref());
        Ok(self.runtime.blocking(call).await.map_err(stopped)??)
    }

    /// Works on the stage with what owns it, which is given back.
    async fn staging<T, F>(&self, owner: T, call: F) -> Result<T, RaftError>
    where
        T: Send + 'static,
        F: FnOnce(&Stage) -> Result<(), KvError> + Send + 'static,
    {
        let stage = self.stage.clone();
        let call = move || call(&stage).map(|()| owner);
        Ok(self.runtime.blocking(call).await.map_err(stopped)??)
    }

    /// Forgets a transfer whose sender went away: the leader is heard, but not about it.
    async fn drop_abandoned(&self) -> Result<(), RaftError> {
        let now = self.runtime.monotonic();
        let abandoned = |incoming: &mut Incoming| incoming.touched + self.patience <= now;
        let Some(incoming) = self.incoming.lock().take_if(abandoned) else {
            return Ok(());
        };
        tracing::info!("a snapshot that was received in part is dropped: its sender went away");
        self.staging(incoming, Stage::clear).await.map(drop)
    }

    /// Starts a transfer and forgets an unfinished one; the own vote if it is higher.
    async fn begin(&self, call: proto::SnapshotBegin) -> Result<Option<Vote>, RaftError> {
        let vote = vote_from_proto(required(call.vote)?);
        decode_books(&call.bookkeeping)?;
        let current = self
            .raft
            .with_raft_state(|state| *state.vote_ref())
            .await
            .map_err(stopped)?;
        // Votes of one term for two nodes don't compare: neither is at least the other.
        let stale = vote.partial_cmp(&current).is_none_or(Ordering::is_lt);
        if stale {
            return Ok(Some(current));
        }
        let unfinished = self.incoming.lock().take();
        let claim = match unfinished {
            Some(mut incoming) => {
                incoming.claim.give_up();
                Some(incoming.claim)
            }
            None => self.stage.claim(),
        };
        let claim = claim.ok_or(RaftError::NotNow(
            "a snapshot is being stored or installed already",
        ))?;
        let claim = self.staging(claim, Stage::clear).await?;
        *self.incoming.lock() = Some(Incoming {
            transfer: call.transfer,
            bookkeeping: call.bookkeeping,
            next: 0,
            touched: self.runtime.monotonic(),
            claim,
        });
        Ok(None)
    }

    async fn chunk(&self, call: proto::SnapshotChunk) -> Result<Option<Vote>, RaftError> {
        if crc32c::crc32c(&call.data) != call.crc32c {
            return Err(RaftError::Malformed("snapshot chunk fails its checksum"));
        }
        let mut incoming = self.take(call.transfer)?;
        if call.sequence != incoming.next {
            return Err(RaftError::Malformed("snapshot chunk out of order"));
        }
        if call.sequence == 0 {
            let (first, machine) = (call.data.clone(), Arc::clone(&self.machine));
            // The answer goes with the claim: nobody may be left to hear it.
            let asking = move || {
                let allowed = incoming.claim.ask(machine, &first)?;
                Ok::<_, StateMachineError>(allowed.then_some(incoming))
            };
            let allowed = self.runtime.blocking(asking).await.map_err(stopped)??;
            incoming = allowed.ok_or(RaftError::NotNow(
                "another replica of this node still has what the snapshot brings",
            ))?;
        }
        let put = move |stage: &Stage| stage.put(call.sequence, call.data);
        let mut incoming = self.staging(incoming, put).await?;
        incoming.next += 1;
        incoming.touched = self.runtime.monotonic();
        // Empty still: who has the claim has the slot.
        *self.incoming.lock() = Some(incoming);
        Ok(None)
    }

    async fn finish(&self, call: proto::SnapshotFinish) -> Result<Option<Vote>, RaftError> {
        let vote = vote_from_proto(required(call.vote)?);
        let finishing = *self.finishing.lock();
        if let Some((transfer, position)) = finishing
            && transfer == call.transfer
        {
            return self.installed(position).await.map(Some);
        }
        let incoming = self.take(call.transfer)?;
        if call.chunks != incoming.next {
            return Err(RaftError::Malformed(
                "snapshot with another number of chunks",
            ));
        }
        let books = decode_books(&incoming.bookkeeping)?;
        let snapshot = Snapshot {
            meta: meta(&books),
            snapshot: SnapshotData::Staged {
                chunks: incoming.next,
                bookkeeping: incoming.bookkeeping,
                claim: incoming.claim,
            },
        };
        *self.finishing.lock() = Some((call.transfer, books.applied));
        let installing = self.raft.install_full_snapshot(vote, snapshot);
        let response = seeded(0, installing).await.map_err(stopped)?;
        // The leader may count it as an acknowledgement.
        let lease = Duration::from_millis(LEASE_MOST_MS);
        self.promise.give(self.runtime.monotonic(), lease);
        // One that is not newer than what is there was refused, and nobody needs its chunks.
        if let Some(claim) = self.stage.claim() {
            self.staging(claim, Stage::drop_unfinished)
                .await
                .map(drop)?;
        }
        Ok(Some(response.vote))
    }

    /// Waits until a snapshot up to a position is installed, which was begun by an earlier call: its
    /// sender asks again when that takes longer than it waits for one answer.
    async fn installed(&self, position: Option<LogId>) -> Result<Vote, RaftError> {
        let mut idle_since = None;
        loop {
            let (applied, vote) = {
                let watched = self.raft.metrics();
                let metrics = watched.borrow_watched();
                (metrics.last_applied, metrics.vote)
            };
            if applied >= position {
                return Ok(vote);
            }
            let now = self.runtime.monotonic();
            if self.stage.claim().is_none() {
                idle_since = None;
            } else if now.saturating_sub(*idle_since.get_or_insert(now)) > SETTLE_LIMIT {
                return Err(RaftError::NotNow("the snapshot was not installed"));
            }
            self.runtime.sleep(POLL).await;
        }
    }

    /// Takes the transfer out of its slot, so that no two steps of it run at once.
    fn take(&self, transfer: u64) -> Result<Incoming, RaftError> {
        let mut slot = self.incoming.lock();
        match slot.take_if(|incoming| incoming.transfer == transfer) {
            Some(incoming) => Ok(incoming),
            None => Err(RaftError::NotNow("no such snapshot transfer")),
        }
    }

    async fn transfer_leader(
        &self,
        call: proto::TransferLeader,
    ) -> Result<proto::TransferLeaderReply, RaftError> {
        use proto::transfer_leader_reply::Outcome;
        if self.is_leaving() && call.to == *self.raft.node_id() {
            return Err(RaftError::NotNow("this node is about to stop"));
        }
        let from = vote_from_proto(required(call.from)?);
        let request = TransferLeaderRequest::new(from, call.to, call.last.map(log_id_from_proto));
        let outcome = match self
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(stopped)?
        {
            Ok(()) => Outcome::Accepted(proto::Blank {}),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                Outcome::VoteChanged(vote_to_proto(&actual))
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                Outcome::LogNotFlushed(proto::PartialSuccess {
                    matched: actual.as_ref().map(log_id_to_proto),
                })
            }
        };
        Ok(proto::TransferLeaderReply {
            outcome: Some(outcome),
        })
    }
}
