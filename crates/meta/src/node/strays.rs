//! Closes the replicas that this node is no member of any more, and frees what they hold.
//!
//! A node that is replaced in a shard may hear of it, or not: members send nothing to those who have
//! left. So a replica that takes no part for a while asks the shard itself, and only the word of its
//! leader counts, given under a lease.
//!
//! A replica of which the shard says that it is no member is sealed and asks once more; before that it
//! is not sealed, since while a shard has no leader nobody answers for it, and its vote is needed.
//!
//! Why nothing is lost: the replica is sealed before it asks again, so it acknowledges nothing more. If a
//! majority has agreed by then that the node is no member, nobody counts on what the replica has
//! acknowledged or voted: the members' own logs hold everything. If the node becomes a member again
//! in between, its leader knows nothing of the old replica's log and begins at nothing, and the new
//! replica is blank. Invariants: without an answer nothing is closed; a replica that leads is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb;
use granary_meta_api::{MetaError, MetaService, Query};
use granary_runtime::within;
use granary_types::{NodeId, ShardId};

use super::{MetaNode, MetaNodeError, Opening, Shard};
use crate::machine::{clear_closed, closing_batch};

/// How often replicas are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a replica has taken no part before its shard is asked: a new one is no member yet when
/// it is opened, and elections pass.
const STRAY_AFTER: Duration = Duration::from_secs(30);
/// Longest wait for the shard's answer, and attempts at it: one may go to a node that does not lead.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 4;

/// Runs until the node stops.
pub(super) async fn run(meta: Arc<MetaNode>) {
    let shutdown = meta.runtime.shutdown().clone();
    let mut idle_since = BTreeMap::new();
    loop {
        tokio::select! {
            () = meta.runtime.sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = look(&meta, &mut idle_since) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// `idle_since`: when the replicas that take no part were first seen so (monotonic).
async fn look(meta: &Arc<MetaNode>, idle_since: &mut BTreeMap<ShardId, Duration>) {
    let shards: Vec<Arc<Shard>> = meta.shards.read().values().cloned().collect();
    let now = meta.runtime.monotonic();
    let idle = shards.iter().filter(|shard| is_idle(meta.node, shard));
    let idle: Vec<&Arc<Shard>> = idle.collect();
    idle_since.retain(|known, _| idle.iter().any(|shard| shard.group.shard() == *known));
    for shard in idle {
        let id = shard.group.shard();
        let since = *idle_since.entry(id).or_insert(now);
        if now.saturating_sub(since) < STRAY_AFTER {
            continue;
        }
        match close_if_stray(meta, shard).await {
            Ok(true) => {
                tracing::info!(
                    shard = id.0,
                    "closed a replica: this node is no member of the shard any more"
                );
            }
            Ok(false) => {
                idle_since.remove(&id);
            }
            // Asked again at the next look.
            Err(error) => {
                tracing::debug!(shard = id.0, %error, "a replica that takes no part stays")
            }
        }
    }
}

/// True for a replica that is no member as far as it knows, or that no leader talks to.
fn is_idle(node: NodeId, shard: &Shard) -> bool {
    let members = shard.group.members();
    let member = members.voters.contains(&node) || members.learners.contains(&node);
    let needed = shard.group.is_leader() || (member && shard.group.takes_part());
    !needed
}

/// Closes a replica when its shard says that this node is no member; whether it did.
async fn close_if_stray(meta: &Arc<MetaNode>, shard: &Arc<Shard>) -> Result<bool, MetaNodeError> {
    let id = shard.group.shard();
    let Some(_closing) = Opening::begin(meta, id) else {
        return Ok(false);
    };
    if !is_left_out(meta, shard).await? {
        return Ok(false);
    }
    let seal = meta.host.seal(id);
    if !is_left_out(meta, shard).await? {
        return Ok(false);
    }
    meta.adopts_no_more().await?;
    shard.closed.cancel();
    let (kv, home) = (Arc::clone(&meta.kv), shard.machine.home());
    let mark = move || closing_batch(kv.as_ref(), id, home);
    meta.host.close(&seal, mark).await?;
    meta.shards.write().remove(&id);
    let kv = Arc::clone(&meta.kv);
    meta.runtime
        .blocking(move || clear_closed(&kv, home))
        .await??;
    Ok(true)
}

/// True when the shard's leader says that this node is no member.
async fn is_left_out(meta: &MetaNode, shard: &Shard) -> Result<bool, MetaNodeError> {
    let members = ask(meta, shard).await?;
    let mut all = members.voters.iter().chain(&members.learners);
    Ok(!members.voters.is_empty() && !all.any(|member| *member == meta.node.0))
}

/// Who is a member of the shard, by its leader.
async fn ask(meta: &MetaNode, shard: &Shard) -> Result<pb::Membership, MetaNodeError> {
    let id = shard.group.shard();
    let unknown = |why: &str| MetaError::Unavailable(why.to_owned());
    let route = meta.root_route.read().clone();
    let route = route.ok_or_else(|| unknown("there are no other nodes"))?;
    let mut failed = unknown("nobody was asked");
    for _ in 0..ATTEMPTS {
        match within(ANSWER_LIMIT, describe(route.as_ref(), id)).await {
            Ok(Ok(described)) => {
                let home = described.descriptor.map(|descriptor| descriptor.home_slab);
                if home != Some(shard.machine.home().0) {
                    return Err(unknown("the shard has another home").into());
                }
                let members = described.members;
                return Ok(members.ok_or_else(|| unknown("its members are not agreed"))?);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = unknown("no answer in time"),
        }
    }
    Err(failed.into())
}

async fn describe(
    route: &dyn MetaService,
    shard: ShardId,
) -> Result<pb::ShardDescription, MetaError> {
    let query = pb::Query {
        query: Some(pb::DescribeShard {}.into_wire()),
    };
    let reply = route.query(shard, query).await?.reply;
    let answer = reply.and_then(<pb::DescribeShard as Query>::reply);
    answer.ok_or_else(|| MetaError::Internal("the reply is of another kind".to_owned()))
}
