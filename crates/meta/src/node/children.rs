//! What becomes of a shard that splits: its child is opened on this node, formed with the same
//! voters, and reported to the root. Every step can be repeated; the parent's descriptor remembers
//! the child until the root knows of it.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb;
use granary_meta_api::pb::state;
use granary_runtime::{CancellationToken, Runtime};
use granary_types::{NodeId, ShardId, SlabId};

use super::{MetaNode, MetaNodeError, Shard};
use crate::machine::local_shards;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Follows a shard's descriptor until the node stops. `opened_at`: its epoch in the store from
/// which the node was opened; later ones may have left new shards there.
pub(super) async fn follow(meta: Arc<MetaNode>, shard: Arc<Shard>, opened_at: u64) {
    let mut changes = shard.machine.watch();
    let shutdown = shard.closed.clone();
    let mut pause = FIRST_PAUSE;
    let mut looked_at = opened_at;
    loop {
        let descriptor = changes.borrow_and_update().clone();
        let done = tokio::select! {
            outcome = settle(&meta, &shard, &descriptor, &mut looked_at) => outcome,
            () = shutdown.cancelled() => return,
        };
        match done {
            Ok(()) => {
                pause = FIRST_PAUSE;
                let changed = tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    () = shutdown.cancelled() => false,
                };
                if !changed {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(shard = shard.group.shard().0, %error, "children not settled yet");
                if !wait(&meta.runtime, &shutdown, pause).await {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn wait(runtime: &Runtime, shutdown: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        () = runtime.sleep(pause) => true,
        () = shutdown.cancelled() => false,
    }
}

/// Opens and reports the children the root does not know of. An error means: try again.
async fn settle(
    meta: &Arc<MetaNode>,
    shard: &Shard,
    descriptor: &state::ShardDescriptor,
    looked_at: &mut u64,
) -> Result<(), MetaNodeError> {
    // A split begins an epoch.
    if descriptor.epoch != *looked_at {
        open_new_shards(meta).await?;
        *looked_at = descriptor.epoch;
    }
    for child in &descriptor.unreported_children {
        let id = ShardId(child.shard);
        let voters: Vec<NodeId> = child.voters.iter().map(|node| NodeId(*node)).collect();
        meta.open_shard(id, SlabId(child.home_slab)).await?;
        // One that got its parent's snapshot has nothing of the child: it waits for the child's.
        let blank = meta.is_blank(id).await?;
        if !blank && voters.contains(&meta.node) {
            meta.host.bootstrap(id, &voters).await?;
        }
    }
    if descriptor.unreported_children.is_empty() {
        return Ok(());
    }
    if !shard.group.is_leader() {
        return Err(MetaNodeError::NotReady(shard.group.shard()));
    }
    let voters = shard.group.members().voters;
    let voters: Vec<u64> = voters.into_iter().map(|node| node.0).collect();
    let own = descriptor.ranges.iter().map(|range| state::RangeHint {
        shard: descriptor.shard,
        range: Some(range.clone()),
        voters: voters.clone(),
    });
    let children = descriptor
        .unreported_children
        .iter()
        .map(|child| state::RangeHint {
            shard: child.shard,
            range: child.range.clone(),
            voters: child.voters.clone(),
        });
    let hints = own.chain(children).collect();
    refused(meta.propose_to_root(pb::ReportRange { hints }).await?)?;
    for child in &descriptor.unreported_children {
        let command = pb::ChildReported { shard: child.shard };
        refused(meta.propose_here(shard.group.shard(), command).await?)?;
    }
    Ok(())
}

/// Opens replicas whose state a split has left in the store. A replica that catches up applies the
/// split and the report of the child at once: then no descriptor it shows names the child.
async fn open_new_shards(meta: &Arc<MetaNode>) -> Result<(), MetaNodeError> {
    let kv = Arc::clone(&meta.kv);
    let found = meta
        .runtime
        .blocking(move || local_shards(kv.as_ref()))
        .await??;
    for (shard, home) in found {
        meta.open_shard(shard, home).await?;
    }
    Ok(())
}

pub(super) fn refused(decision: Result<pb::Empty, pb::Rejection>) -> Result<(), MetaNodeError> {
    match decision {
        Ok(_) => Ok(()),
        Err(rejection) => Err(MetaNodeError::NotFormed(format!(
            "a report was refused: {}",
            rejection.detail
        ))),
    }
}
