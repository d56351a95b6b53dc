//! Commands and queries of clients, for the shards this node leads.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_kv::{Kv, KvError};
use granary_meta_api::pb::command::Command as WireCommand;
use granary_meta_api::pb::query::Query as WireQuery;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_raft::{Members, NotLeader, ProposeError, StateMachineError};
use granary_types::{NodeId, ShardId, SlabId};
use prost::Message;

use super::metrics::increment;
use super::{MetaNode, Shard};
use crate::apply::{FEATURE_LEVEL, FIRST_LEVEL, level};
use crate::keyspace::shard_clock::ShardClockKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::machine::touches_many_rows;
use crate::ownership::data_slabs;
use crate::query::{IdSource, QueryError, ShardView, Snapshot, answer};
use crate::rows::{Bounds, Rows, View};
use crate::shard_rows::ShardRows;

/// Deadline of the commands a node gives itself, in milliseconds.
pub(super) const OWN_DEADLINE_MS: u64 = 10_000;
/// How far a shard's applied time may lie behind when the sweep asks, in milliseconds.
const SWEEP_LAG_MS: u64 = 1000;
/// Shortest wait for a command, in milliseconds: clocks of clients may differ.
const WAIT_MS_MIN: u64 = 1000;
/// Elections that a command waits for at most. A shard whose quorum is gone tells its clients after
/// that, long before they give up by themselves; one that was only busy is asked again.
const WAIT_ELECTIONS: u64 = 3;

#[async_trait]
impl MetaService for MetaNode {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let outcome = self.decide(shard, command).await;
        match &outcome {
            Ok(reply) => {
                increment(&self.counts.commands);
                if reply.rejection.is_some() {
                    increment(&self.counts.rejections);
                }
            }
            Err(_) => increment(&self.counts.command_errors),
        }
        outcome
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let outcome = self.read(shard, query).await;
        increment(match &outcome {
            Ok(_) => &self.counts.queries,
            Err(_) => &self.counts.query_errors,
        });
        outcome
    }
}

impl MetaNode {
    async fn decide(
        &self,
        id: ShardId,
        mut command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let shard = self.find_to_ask(id)?;
        if self.growth_refused() && command.command.as_ref().is_some_and(grows) {
            return Err(MetaError::NoSpace(
                "the metadata directory is nearly full".to_owned(),
            ));
        }
        match &mut command.command {
            // It must not get into the log: replicas stop at what they do not know.
            None => return Err(MetaError::Invalid("an unknown command".to_owned())),
            Some(WireCommand::SplitRange(split)) => {
                stamp_voters(&shard, split)?;
                self.check_backup(&shard).await?;
            }
            Some(WireCommand::ActivateFeature(activate)) => {
                if activate.level > FEATURE_LEVEL {
                    return Err(MetaError::Invalid("an unknown feature level".to_owned()));
                }
            }
            Some(_) => {}
        }
        let level = command.command.as_ref().map_or(0, level);
        if level > FIRST_LEVEL {
            self.check_activated(&shard, level).await?;
        }
        let now_ms = self.runtime.now().as_millis();
        let wait_ms = command.deadline_ms.saturating_sub(now_ms);
        let wait_ms = wait_ms.clamp(WAIT_MS_MIN, self.longest_wait_ms());
        let many = command.command.as_ref().is_some_and(touches_many_rows);
        let (bytes, limit) = (
            command.encode_to_vec().into(),
            Duration::from_millis(wait_ms),
        );
        let reply = if many {
            shard.group.propose_alone(bytes, limit).await
        } else {
            shard.group.propose(bytes, limit).await
        };
        let reply = reply.map_err(|error| propose_error(id, &error))?;
        let reply = pb::ProposeReply::decode(reply)
            .map_err(|error| MetaError::Internal(format!("an answer of apply: {error}")))?;
        if let Some(fault) = reply.fault {
            return Err(MetaError::from_fault(id, fault));
        }
        reply
            .reply
            .ok_or_else(|| MetaError::Internal("an empty answer of apply".to_owned()))
    }

    /// Keeps a command out of the log until the shard has activated its feature level: a replica of
    /// an older version does not know it, and stops at what it does not know.
    async fn check_activated(&self, shard: &Shard, level: u64) -> Result<(), MetaError> {
        let row = ShardClockKey {
            slab: shard.machine.home(),
        };
        let memory = self.kv.in_memory();
        let known = memory.map(|memory| View(memory.as_ref()).get(&row));
        let clock = match known {
            None | Some(Err(StateMachineError::Kv(KvError::NotInMemory))) => {
                let kv = Arc::clone(&self.kv);
                let read = move || View(kv.as_ref()).get(&row);
                let read = self.runtime.blocking(read).await;
                read.map_err(|_| MetaError::Unavailable("the node is stopping".to_owned()))?
            }
            Some(clock) => clock,
        };
        let clock = clock.map_err(|error| query_error(shard.group.shard(), error.into()))?;
        let active = clock.map_or(0, |clock| clock.feature_level);
        if active < level {
            return Err(MetaError::Unavailable(format!(
                "feature level {level} is not activated yet"
            )));
        }
        Ok(())
    }

    /// Keeps a split out of the log that the backup could not be led through.
    async fn check_backup(&self, shard: &Shard) -> Result<(), MetaError> {
        if !self.config.backs_up {
            return Ok(());
        }
        if !self.is_backed_up(shard.group.shard()) {
            let why = "the shard has no checkpoint in the backup yet";
            return Err(MetaError::Unavailable(why.to_owned()));
        }
        self.settled_child(shard).await.map(|_| ())
    }

    async fn read(&self, id: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let query = query.query;
        let query = query.ok_or_else(|| MetaError::Invalid("an unknown query".to_owned()))?;
        let shard = self.find_to_ask(id)?;
        let _admitted = self
            .admitted
            .try_acquire()
            .map_err(|_| MetaError::Busy(id))?;
        match &query {
            WireQuery::LookupOwners(_) => self.catch_up(id, &shard).await?,
            // Its answer depends on the applied time: an idle shard's must go on, if it has any.
            WireQuery::ListDeletions(_) if self.has_deletions(&shard).await? => {
                self.catch_up(id, &shard).await?;
            }
            _ => {}
        }
        let unavailable = |_| MetaError::Unavailable("the node is stopping".to_owned());
        let _running = self.running.acquire().await;
        let term = shard.group.term();
        let lease = shard
            .group
            .begin_read()
            .map_err(|error| not_leader(id, error))?;
        let (snapshot, known) = shard.machine.view();
        lease
            .confirm()
            .await
            .map_err(|error| not_leader(id, error))?;
        if shard.group.term() != term {
            return Err(MetaError::NotLeader {
                shard: id,
                leader: None,
            });
        }
        let ids = IdSource {
            shard: id,
            term,
            counter: Arc::clone(&shard.ids),
        };
        let (now_ms, home) = (self.runtime.now().as_millis(), shard.machine.home());
        let reply = match from_memory(&snapshot, home, known.clone(), now_ms, &ids, &query) {
            Some(reply) => reply,
            None => {
                let read = move || {
                    let view = ShardView::open(snapshot.as_ref(), home, known, now_ms, ids)?;
                    answer(query, &view)
                };
                self.runtime.blocking(read).await.map_err(unavailable)?
            }
        };
        let mut reply = reply.map_err(|error| query_error(id, error))?;
        if let Reply::Shard(description) = &mut reply {
            description.members = shard.group.agreed_members().map(membership);
            description.backed_up = self.is_backed_up(id);
        }
        Ok(pb::QueryReply { reply: Some(reply) })
    }

    fn longest_wait_ms(&self) -> u64 {
        (self.config.raft.election_max_ms * WAIT_ELECTIONS).max(WAIT_MS_MIN)
    }

    async fn has_deletions(&self, shard: &Shard) -> Result<bool, MetaError> {
        let (kv, home) = (Arc::clone(&self.kv), shard.machine.home());
        let look = move || any_deletion(kv.as_ref(), home);
        let found = self.runtime.blocking(look).await;
        let found = found.map_err(|_| MetaError::Unavailable("the node is stopping".to_owned()))?;
        found.map_err(|error| query_error(shard.group.shard(), error.into()))
    }

    /// Brings the applied time of a shard up to now: the sweep and the deletions depend on it.
    async fn catch_up(&self, id: ShardId, shard: &Shard) -> Result<(), MetaError> {
        let now_ms = self.runtime.now().as_millis();
        if shard.group.applied_time_ms() + SWEEP_LAG_MS < now_ms {
            // A tick cannot be rejected.
            let _ = self.propose_here(id, pb::Tick {}).await?;
        }
        Ok(())
    }
}

/// The answer to a query about a few rows, if memory has them: that spares two changes of threads,
/// which cost more than the look-up.
fn from_memory(
    snapshot: &Snapshot,
    home: SlabId,
    known: Option<ShardRows>,
    now_ms: u64,
    ids: &IdSource,
    query: &WireQuery,
) -> Option<Result<Reply, QueryError>> {
    if !is_about_few_rows(query) {
        return None;
    }
    let memory = snapshot.in_memory()?;
    let view = ShardView::open(memory.as_ref(), home, known, now_ms, ids.clone());
    match view.and_then(|view| answer(query.clone(), &view)) {
        Err(QueryError::Failed(StateMachineError::Kv(KvError::NotInMemory))) => None,
        reply => Some(reply),
    }
}

/// True for queries that read a handful of rows, whatever they are asked.
fn is_about_few_rows(query: &WireQuery) -> bool {
    matches!(
        query,
        WireQuery::GetVersion(_)
            | WireQuery::GetUpload(_)
            | WireQuery::BeginWrite(_)
            | WireQuery::GetBucket(_)
            | WireQuery::GetAccessKey(_)
    )
}

/// True when one of the shard's slabs holds a deletion; it may be a sibling's.
fn any_deletion(kv: &dyn Kv, home: SlabId) -> Result<bool, StateMachineError> {
    let view = View(kv);
    let descriptor = view.get(&ShardDescriptorKey { slab: home })?;
    for slab in data_slabs(&descriptor.unwrap_or_default()) {
        if view.any(&Bounds::prefix(kind_prefix(slab, Kind::Deletion)))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True for commands that need room and free none. What deletes, ends or repairs goes on when the
/// metadata directory is nearly full, and so do the leases of the workers that do it.
fn grows(command: &WireCommand) -> bool {
    match command {
        WireCommand::PutObject(_)
        | WireCommand::InitiateUpload(_)
        | WireCommand::PutPart(_)
        | WireCommand::CompleteUpload(_)
        | WireCommand::StageExtents(_)
        | WireCommand::SplitRange(_)
        | WireCommand::SetObjectAcl(_)
        | WireCommand::SetObjectTags(_)
        | WireCommand::AppendObject(_)
        | WireCommand::SealObject(_)
        | WireCommand::SetObjectMeta(_)
        | WireCommand::CreateDirectory(_)
        | WireCommand::RenameEntry(_)
        | WireCommand::SetBucketTags(_)
        | WireCommand::SetBucketConfig(_)
        | WireCommand::CreateBucket(_)
        | WireCommand::PutAccount(_)
        | WireCommand::CreatePool(_)
        | WireCommand::CreatePgs(_)
        | WireCommand::AllocateShard(_) => true,
        WireCommand::DeleteObject(_)
        | WireCommand::DeleteDirectory(_)
        | WireCommand::AbortUpload(_)
        // Bytes leave the metadata.
        | WireCommand::FoldTail(_)
        | WireCommand::PinRead(_)
        | WireCommand::AckDeletions(_)
        | WireCommand::ConfigureBucket(_)
        | WireCommand::FenceBucket(_)
        | WireCommand::ChildReported(_)
        | WireCommand::Tick(_)
        | WireCommand::ActivateFeature(_)
        | WireCommand::InitCluster(_)
        | WireCommand::FinishCreateBucket(_)
        | WireCommand::FinishConfigureBucket(_)
        | WireCommand::SetBucketVersioning(_)
        | WireCommand::SetBucketAcl(_)
        | WireCommand::BeginDeleteBucket(_)
        | WireCommand::EndDeleteBucket(_)
        | WireCommand::PutAccessKey(_)
        | WireCommand::RegisterNode(_)
        | WireCommand::RegisterDisk(_)
        | WireCommand::ReplacePgMember(_)
        | WireCommand::CompletePgMember(_)
        | WireCommand::ReportRange(_)
        | WireCommand::AcquireLease(_)
        | WireCommand::AllocateNode(_)
        | WireCommand::RemoveNode(_)
        | WireCommand::PutTrust(_)
        | WireCommand::PutJoinToken(_)
        | WireCommand::RenewRoot(_) => false,
    }
}

/// The child's voters are the parent's, as they are when the split is proposed. Whoever names them has
/// looked whether they stay: they must be the same still.
fn stamp_voters(shard: &Shard, split: &mut pb::SplitRange) -> Result<(), MetaError> {
    let members = shard.group.members();
    let voters: Vec<u64> = members.voters.into_iter().map(|node| node.0).collect();
    let others = !split.voters.is_empty() && split.voters != voters;
    if members.changing || others {
        return Err(MetaError::Unavailable(
            "the shard's members are changing".to_owned(),
        ));
    }
    split.voters = voters;
    Ok(())
}

fn membership(members: Members) -> pb::Membership {
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    pb::Membership {
        voters: ids(members.voters),
        learners: ids(members.learners),
    }
}

fn not_leader(shard: ShardId, error: NotLeader) -> MetaError {
    MetaError::NotLeader {
        shard,
        leader: error.leader,
    }
}

fn propose_error(shard: ShardId, error: &ProposeError) -> MetaError {
    match error {
        ProposeError::NotLeader(error) => not_leader(shard, *error),
        ProposeError::Unknown | ProposeError::Failed => {
            MetaError::UnknownOutcome(error.to_string())
        }
        ProposeError::TooLarge { .. } => MetaError::Invalid(error.to_string()),
        ProposeError::Busy => MetaError::Busy(shard),
        ProposeError::Stopped => MetaError::Unavailable(error.to_string()),
    }
}

fn query_error(shard: ShardId, error: QueryError) -> MetaError {
    match error {
        QueryError::WrongShard => MetaError::WrongShard(shard),
        QueryError::Invalid(what) => MetaError::Invalid(what.to_owned()),
        QueryError::Failed(error) => {
            tracing::error!(shard = shard.0, %error, "a shard's state cannot be read");
            MetaError::Internal(error.to_string())
        }
    }
}
