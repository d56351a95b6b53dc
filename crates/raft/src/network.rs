//! The sending half of the protocol: the consensus library's calls as messages over a
//! [`RaftTransport`].
//!
//! Every wait ends: messages have a time limit, and so has each step of a snapshot's transfer; the
//! whole of it takes as long as it takes. A snapshot is sent chunk by chunk, the next one only after
//! the last was stored. While it waits for its turn no view of the state machine is held, which
//! would keep the store from forgetting what is replaced.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::{Runtime, within};
use granary_types::{NodeId, ShardId};
use openraft::errors::{
    ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2, StorageError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::clocks::Clocks;
use crate::format::{
    entry_to_proto, log_id_from_proto, log_id_to_proto, vote_from_proto, vote_to_proto,
};
use crate::promise::Promise;
use crate::snapshot::SnapshotData;
use crate::types::{Snapshot, Types, Vote};
use crate::wire::proto::{self, reply, request};
use crate::wire::{RaftReply, RaftRequest};
use crate::{RaftTransport, StateMachineError, TransportError};

type RpcError = RPCError<Types>;

/// What sending needs; shared by all peers of a group.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
    pub(crate) runtime: Runtime,
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) message_timeout: Duration,
    /// How long this node relies on an acknowledgement when it leads.
    pub(crate) lease: Duration,
    pub(crate) promise: Promise,
    pub(crate) clocks: Clocks,
    /// When this node was told last that it was removed from the cluster (monotonic).
    pub(crate) removed: watch::Sender<Option<Duration>>,
    /// Snapshots that this node sends at once, over all groups.
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) sending: Sending,
}

/// How often the end of a transfer is asked for: a large state takes long to install.
const FINISH_ATTEMPTS: u32 = 12;

/// The snapshots that a group sends, and those of which the receivers have not caught up since: from
/// where on each still needs the log. Clones share it; one row per peer at most.
#[derive(Clone, Default)]
pub(crate) struct Sending(Arc<Mutex<BTreeMap<NodeId, Sent>>>);

/// One peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// What the peer has, or will have with the snapshot.
    pub(crate) index: u64,
    /// It is on its way.
    pub(crate) active: bool,
    /// When the peer last got any further (monotonic).
    pub(crate) progress: Duration,
}

impl Sending {
    /// A snapshot with everything up to `index` is being sent until what this returns is dropped.
    fn begin(&self, to: NodeId, index: u64, runtime: &Runtime) -> OnItsWay {
        let sent = Sent {
            index,
            active: true,
            progress: runtime.monotonic(),
        };
        self.0.lock().insert(to, sent);
        OnItsWay {
            sending: self.clone(),
            to,
            runtime: runtime.clone(),
        }
    }

    /// Lets `keep` judge every one, and change it; the lowest index that those have which are kept.
    pub(crate) fn lowest(&self, mut keep: impl FnMut(NodeId, &mut Sent) -> bool) -> Option<u64> {
        let mut all = self.0.lock();
        all.retain(|to, sent| keep(*to, sent));
        all.values().map(|sent| sent.index).min()
    }
}

/// A snapshot on its way.
struct OnItsWay {
    sending: Sending,
    to: NodeId,
    runtime: Runtime,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let now = self.runtime.monotonic();
        if let Some(sent) = self.sending.0.lock().get_mut(&self.to) {
            (sent.active, sent.progress) = (false, now);
        }
    }
}

impl RaftNetworkFactory<Types> for Sender {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> Peer {
        Peer {
            to: NodeId(target),
            sender: self.clone(),
            turn: None,
        }
    }
}

/// One peer of one group.
pub(crate) struct Peer {
    to: NodeId,
    sender: Sender,
    /// The right to send a snapshot, once it was waited for.
    turn: Option<OwnedSemaphorePermit>,
}

/// Why a request to a peer failed.
enum Failure {
    Transport(TransportError),
    TimedOut,
    /// The reply is to something else, or lacks a part.
    Malformed,
}

impl Peer {
    async fn ask(&self, request: request::Body, limit: Duration) -> Result<reply::Body, Failure> {
        let sent = self.sender.runtime.monotonic();
        let sending = self
            .sender
            .transport
            .send(self.to, self.sender.shard, RaftRequest(request));
        match within(limit, sending).await {
            Ok(Ok(RaftReply(reply))) => {
                let wall_ms = match &reply {
                    reply::Body::Append(reply) => {
                        if reply.sender_removed {
                            self.sender.removed.send_replace(Some(sent));
                        }
                        reply.wall_ms
                    }
                    reply::Body::Vote(reply) => reply.wall_ms,
                    reply::Body::Snapshot(_) | reply::Body::TransferLeader(_) => 0,
                };
                self.sender.clocks.heard(self.to, wall_ms, sent);
                Ok(reply)
            }
            Ok(Err(error)) => Err(Failure::Transport(error)),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    fn error(&self, failure: Failure, action: RPCTypes, limit: Duration) -> RpcError {
        match failure {
            Failure::Transport(error @ TransportError::NoAnswer { .. }) => {
                RPCError::Network(NetworkError::new(&error))
            }
            Failure::Transport(error) => RPCError::Unreachable(Unreachable::new(&error)),
            Failure::TimedOut => RPCError::Timeout(Timeout {
                action,
                id: self.sender.node.0,
                target: self.to.0,
                timeout: limit,
            }),
            Failure::Malformed => {
                RPCError::Unreachable(Unreachable::from_string("the peer's reply is malformed"))
            }
        }
    }

    async fn ask_vote(
        &self,
        call: VoteRequest<Types>,
        pre_vote: bool,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let now = self.sender.runtime.monotonic();
        if self.sender.promise.binds(now) && !call.leadership_transfer {
            let reason = "this node has promised another leader not to campaign yet";
            return Err(RPCError::Unreachable(Unreachable::from_string(reason)));
        }
        let limit = self.sender.message_timeout;
        let request = request::Body::Vote(proto::VoteCall {
            vote: Some(vote_to_proto(&call.vote)),
            last: call.last_log_id.as_ref().map(log_id_to_proto),
            leadership_transfer: call.leadership_transfer,
            pre_vote,
        });
        let reply = match self.ask(request, limit).await {
            Ok(reply::Body::Vote(proto::VoteReply {
                vote: Some(vote),
                granted,
                last,
                ..
            })) => Ok((vote, granted, last)),
            Ok(_) => Err(Failure::Malformed),
            Err(failure) => Err(failure),
        };
        let (vote, granted, last) =
            reply.map_err(|failure| self.error(failure, RPCTypes::Vote, limit))?;
        Ok(VoteResponse::new(
            vote_from_proto(vote),
            last.map(log_id_from_proto),
            granted,
        ))
    }

    /// One step of a snapshot's transfer; the receiver's vote once it has one to tell.
    async fn step(
        &self,
        step: request::Body,
        limit: Duration,
    ) -> Result<Option<Vote>, StreamingError<Types>> {
        let outcome = match self.ask(step, limit).await {
            Ok(reply::Body::Snapshot(reply)) => Ok(reply.vote.map(vote_from_proto)),
            Ok(_) => Err(Failure::Malformed),
            Err(failure) => Err(failure),
        };
        outcome.map_err(|failure| self.error(failure, RPCTypes::InstallSnapshot, limit).into())
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        limit: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::View(mut reader) = snapshot.snapshot else {
            return Err(closed("a received snapshot is not sent on").into());
        };
        let (transfer, step_limit) = (self.sender.runtime.entropy().next_u64(), limit / 10);
        let begin = request::Body::SnapshotBegin(proto::SnapshotBegin {
            vote: Some(vote_to_proto(&vote)),
            transfer,
            bookkeeping: reader.bookkeeping().unwrap_or_default(),
        });
        if let Some(higher) = self.step(begin, step_limit).await? {
            return Ok(SnapshotResponse::new(higher));
        }
        let mut sequence = 0;
        loop {
            let read = move || {
                let chunk = reader.next_chunk();
                (reader, chunk)
            };
            let (back, chunk) = self
                .sender
                .runtime
                .blocking(read)
                .await
                .map_err(|_| closed("node stops"))?;
            reader = back;
            let Some(data) = chunk.map_err(read_error)? else {
                break;
            };
            let crc32c = crc32c::crc32c(&data);
            let chunk = proto::SnapshotChunk {
                transfer,
                sequence,
                data,
                crc32c,
            };
            self.step(request::Body::SnapshotChunk(chunk), step_limit)
                .await?;
            sequence += 1;
        }
        let finish = request::Body::SnapshotFinish(proto::SnapshotFinish {
            vote: Some(vote_to_proto(&vote)),
            transfer,
            chunks: sequence,
        });
        for _ in 1..FINISH_ATTEMPTS {
            match self.step(finish.clone(), limit).await {
                // It is being installed still. Begun anew, all of it would be sent once more.
                Err(StreamingError::Timeout(_)) => {}
                outcome => return self.finished(outcome, limit),
            }
        }
        let outcome = self.step(finish, limit).await;
        self.finished(outcome, limit)
    }

    fn finished(
        &self,
        outcome: Result<Option<Vote>, StreamingError<Types>>,
        limit: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match outcome? {
            Some(vote) => Ok(SnapshotResponse::new(vote)),
            None => Err(self
                .error(Failure::Malformed, RPCTypes::InstallSnapshot, limit)
                .into()),
        }
    }

    /// Waits for this peer's turn, holding nothing. The library then fetches a snapshot anew.
    async fn take_turn(&mut self, limit: Duration) -> StreamingError<Types> {
        let waited = Arc::clone(&self.sender.snapshots).acquire_owned().await;
        let Ok(turn) = waited else {
            return closed("node stops").into();
        };
        self.turn = Some(turn);
        // After a timeout it does so at once.
        self.error(Failure::TimedOut, RPCTypes::InstallSnapshot, limit)
            .into()
    }
}

fn closed(reason: &'static str) -> ReplicationClosed {
    ReplicationClosed::new(reason)
}

fn read_error(error: StateMachineError) -> StreamingError<Types> {
    let source = openraft::impls::BoxedErrorSource::from_error(&error);
    StreamingError::StorageError(StorageError::read_snapshot(None, source))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        // The library's limit is one heartbeat, too short for a large batch's sync at the peer. A
        // heartbeat it cuts there itself, and votes at the shortest election timeout, which must leave
        // time for the sync of a vote.
        let limit = self.sender.message_timeout;
        let request = request::Body::Append(proto::Append {
            vote: Some(vote_to_proto(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(log_id_to_proto),
            entries: rpc.entries.iter().map(entry_to_proto).collect(),
            committed: rpc.leader_commit.as_ref().map(log_id_to_proto),
            lease_ms: u64::try_from(self.sender.lease.as_millis()).unwrap_or(u64::MAX),
            hands_over: true,
        });
        let reply = match self.ask(request, limit).await {
            Ok(reply::Body::Append(reply)) => append_reply(reply).ok_or(Failure::Malformed),
            Ok(_) => Err(Failure::Malformed),
            Err(failure) => Err(failure),
        };
        reply.map_err(|failure| self.error(failure, RPCTypes::AppendEntries, limit))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(rpc, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let limit = option.hard_ttl();
        // Few at once: each occupies a disk and a connection at either end.
        let free = Arc::clone(&self.sender.snapshots).try_acquire_owned().ok();
        let Some(_turn) = self.turn.take().or(free) else {
            drop(snapshot);
            return tokio::select! {
                biased;
                closed = cancel => Err(closed.into()),
                error = self.take_turn(limit) => Err(error),
            };
        };
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        let (sending, runtime) = (&self.sender.sending, &self.sender.runtime);
        let _on_its_way = sending.begin(self.to, index, runtime);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot, limit) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let limit = self.sender.message_timeout;
        let request = request::Body::TransferLeader(proto::TransferLeader {
            from: Some(vote_to_proto(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(log_id_to_proto),
        });
        let reply = match self.ask(request, limit).await {
            Ok(reply::Body::TransferLeader(proto::TransferLeaderReply {
                outcome: Some(outcome),
            })) => Ok(outcome),
            Ok(_) => Err(Failure::Malformed),
            Err(failure) => Err(failure),
        };
        use proto::transfer_leader_reply::Outcome;
        match reply.map_err(|failure| self.error(failure, RPCTypes::TransferLeader, limit))? {
            Outcome::Accepted(_) => Ok(Ok(())),
            Outcome::VoteChanged(vote) => Ok(Err(TransferLeaderError::VoteChanged {
                expected: *rpc.from_leader(),
                actual: vote_from_proto(vote),
            })),
            Outcome::LogNotFlushed(partial) => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: rpc.last_log_id().copied(),
                actual: partial.matched.map(log_id_from_proto),
            })),
        }
    }
}

fn append_reply(reply: proto::AppendReply) -> Option<AppendEntriesResponse<Types>> {
    use proto::append_reply::Outcome;
    Some(match reply.outcome? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.matched.map(log_id_from_proto))
        }
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_from_proto(vote)),
    })
}
