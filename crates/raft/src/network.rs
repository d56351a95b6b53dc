//! The sending half of the protocol: the consensus library's calls as messages over a
//! [`RaftTransport`].
//!
//! Every wait ends: messages have a time limit, a snapshot has one for the whole transfer and one
//! for each step. A snapshot is sent chunk by chunk, the next one only after the last was stored.

use std::future::Future;
use std::sync::{Arc, Weak};
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
use tokio::sync::Semaphore;

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
    /// Shorter: a lost heartbeat must not hold up the next one until an election.
    pub(crate) heartbeat_timeout: Duration,
    /// How long this node relies on an acknowledgement when it leads.
    pub(crate) lease: Duration,
    pub(crate) promise: Promise,
    pub(crate) clocks: Clocks,
    /// Snapshots that this node sends at once, over all groups.
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) sending: Sending,
}

/// The snapshots that a group is sending or about to send. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Sending(Arc<()>);

impl Sending {
    pub(crate) fn any(&self) -> bool {
        Arc::weak_count(&self.0) > 0
    }

    /// Counts as a snapshot until it is dropped.
    fn one(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }
}

impl RaftNetworkFactory<Types> for Sender {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> Peer {
        Peer {
            to: NodeId(target),
            sender: self.clone(),
        }
    }
}

/// One peer of one group.
pub(crate) struct Peer {
    to: NodeId,
    sender: Sender,
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
                    reply::Body::Append(reply) => reply.wall_ms,
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
        let _sending = self.sender.sending.one();
        // Few at once: each occupies a disk and a connection at either end.
        let _permit = self
            .sender
            .snapshots
            .acquire()
            .await
            .map_err(|_| closed("node stops"))?;
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
        match self.step(finish, limit).await? {
            Some(vote) => Ok(SnapshotResponse::new(vote)),
            None => Err(self
                .error(Failure::Malformed, RPCTypes::InstallSnapshot, limit)
                .into()),
        }
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
        // The library's limit is one heartbeat, too short for a large batch's sync at the peer.
        let limit = if rpc.entries.is_empty() {
            self.sender.heartbeat_timeout
        } else {
            self.sender.message_timeout
        };
        let request = request::Body::Append(proto::Append {
            vote: Some(vote_to_proto(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(log_id_to_proto),
            entries: rpc.entries.iter().map(entry_to_proto).collect(),
            committed: rpc.leader_commit.as_ref().map(log_id_to_proto),
            lease_ms: u64::try_from(self.sender.lease.as_millis()).unwrap_or(u64::MAX),
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
        let sending = within(limit, self.send_snapshot(vote, snapshot, limit));
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sending => sent.unwrap_or_else(|_| {
                let failure = Failure::TimedOut;
                Err(self.error(failure, RPCTypes::InstallSnapshot, limit).into())
            }),
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
