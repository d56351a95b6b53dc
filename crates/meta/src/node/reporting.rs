//! Tells the root who votes in a shard, from whoever leads it: when it begins to lead, and when its
//! voters or its ranges have changed. A hint for whoever routes; repeated until the root took it.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb;
use granary_meta_api::pb::state;
use granary_types::NodeId;

use super::{MetaNode, MetaNodeError, Shard};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What was told.
#[derive(PartialEq, Eq)]
struct Told {
    epoch: u64,
    voters: Vec<NodeId>,
}

/// Runs until the node stops.
pub(super) async fn run(meta: Arc<MetaNode>, shard: Arc<Shard>) {
    let shutdown = shard.closed.clone();
    // Ends with the node; the group's end is noticed inside.
    let _ = shutdown
        .run_until_cancelled(report_changes(&meta, &shard))
        .await;
}

async fn report_changes(meta: &MetaNode, shard: &Shard) {
    let mut ranges = shard.machine.watch();
    let (mut told, mut pause) = (None, FIRST_PAUSE);
    loop {
        let descriptor = ranges.borrow_and_update().clone();
        let (leads, members) = (shard.group.is_leader(), shard.group.members());
        if !leads {
            // Another leader may tell something else meanwhile.
            told = None;
        }
        let now = Told {
            epoch: descriptor.epoch,
            voters: members.voters.clone(),
        };
        // The root owns no range: there is nothing to say of it.
        let due = leads && !members.changing && !descriptor.ranges.is_empty();
        if due && told.as_ref() != Some(&now) {
            match report(meta, &descriptor, &members.voters).await {
                Ok(()) => {
                    (told, pause) = (Some(now), FIRST_PAUSE);
                }
                Err(error) => {
                    tracing::debug!(shard = descriptor.shard, %error, "voters not reported yet");
                    meta.runtime.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            // The members may have changed meanwhile.
            continue;
        }
        let goes_on = tokio::select! {
            changed = shard.group.members_changed(leads, &members) => changed,
            changed = ranges.changed() => changed.is_ok(),
        };
        if !goes_on {
            return;
        }
    }
}

async fn report(
    meta: &MetaNode,
    descriptor: &state::ShardDescriptor,
    voters: &[NodeId],
) -> Result<(), MetaNodeError> {
    let hints = descriptor.ranges.iter().map(|range| state::RangeHint {
        shard: descriptor.shard,
        range: Some(range.clone()),
        voters: voters.iter().map(|node| node.0).collect(),
    });
    let command = pb::ReportRange {
        hints: hints.collect(),
    };
    super::children::refused(meta.propose_to_root(command).await?)
}
