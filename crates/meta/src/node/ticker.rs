//! Lets the time of idle shards go on while they have something to expire.

use std::sync::Arc;
use std::time::Duration;

use granary_kv::Kv;
use granary_meta_api::pb;
use granary_raft::StateMachineError;
use granary_types::{ShardId, SlabId};

use super::{MetaNode, Shard};
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{Kind, kind_prefix, minute_of};
use crate::limits::REPLY_MARGIN_MS;
use crate::ownership::data_slabs;
use crate::rows::{Bounds, Rows, View};

/// Runs until the node stops.
pub(super) async fn run(meta: Arc<MetaNode>) {
    let every = Duration::from_millis(meta.config.tick_ms.max(1));
    let shutdown = meta.runtime.shutdown().clone();
    loop {
        tokio::select! {
            () = meta.runtime.sleep(every) => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tick_all(&meta) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn tick_all(meta: &Arc<MetaNode>) {
    // A voter may hear of the cluster's first shards only after it was opened.
    if meta.shard(ShardId::ROOT).is_some()
        && let Err(error) = meta.adopt_first_shards().await
    {
        tracing::warn!(%error, "first shards not opened yet");
    }
    let shards: Vec<_> = meta.shards.read().values().cloned().collect();
    for shard in shards {
        if !shard.group.is_leader() {
            continue;
        }
        let now_ms = meta.runtime.now().as_millis();
        let idle = shard.group.applied_time_ms() + meta.config.tick_ms <= now_ms;
        if idle && has_due_rows(meta, &shard, now_ms).await {
            // Not decided: the next round tries again.
            let _ = meta.propose_here(shard.group.shard(), pb::Tick {}).await;
        }
    }
}

/// True when something of the shard's slabs is due. Rows of a sibling in the same slab may cause a
/// tick that finds nothing.
async fn has_due_rows(meta: &MetaNode, shard: &Shard, now_ms: u64) -> bool {
    let (kv, home) = (Arc::clone(&meta.kv), shard.machine.home());
    let look = move || due_rows(kv.as_ref(), home, now_ms);
    match meta.runtime.blocking(look).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a shard's timed rows cannot be read");
            false
        }
        Err(_) => false,
    }
}

fn due_rows(kv: &dyn Kv, home: SlabId, now_ms: u64) -> Result<bool, StateMachineError> {
    let due = [
        (
            Kind::CommandReply,
            minute_of(now_ms.saturating_sub(REPLY_MARGIN_MS)),
        ),
        (Kind::Expiry, minute_of(now_ms)),
    ];
    let view = View(kv);
    let descriptor = view
        .get(&ShardDescriptorKey { slab: home })?
        .unwrap_or_default();
    let mut slabs = data_slabs(&descriptor);
    slabs.push(home);
    for slab in slabs {
        for (kind, minute) in due {
            let start = kind_prefix(slab, kind);
            let end = Some([start.as_slice(), &minute.to_be_bytes()].concat());
            if view.any(&Bounds { start, end })? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
