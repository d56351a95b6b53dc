//! Cuts a group's log when it has too many entries or bytes.
//!
//! The library could count entries, but those may be a megabyte each. Here they are weighed too: a
//! group with peers keeps some applied entries for those that catch up, and more while one of them
//! is sent a snapshot; a group of one keeps only what came since the last cut. As ever, only what
//! is durably applied is cut.
//!
//! The group's first entry is cut as soon as it is applied. A replica without any state is then
//! never sent the log from its beginning: the state that the group began with is not in it.

use std::time::Duration;

use granary_runtime::{Runtime, within};
use openraft::async_runtime::watch::WatchReceiver;

use crate::health::State;
use crate::lease::Standing;
use crate::log_store::{LogStore, Peers};
use crate::network::Sending;

/// Longest wait for the library to note how far the state machine is.
const NOTED_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a cut that could not be made yet: a peer is being sent those entries.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until the group stops.
pub(crate) async fn run(runtime: Runtime, standing: Standing, log: LogStore, sending: Sending) {
    let mut state = standing.health().watch();
    let shutdown = runtime.shutdown().clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        // An error: the group is gone.
        _ = state.wait_for(|state| *state != State::Running) => {}
        () = async {
            cut_first(&runtime, &standing, &log).await;
            cut_as_it_grows(&runtime, &standing, &log, &sending).await;
        } => {}
    }
}

/// Cuts the first entry, which formed the group.
async fn cut_first(runtime: &Runtime, standing: &Standing, log: &LogStore) {
    let mut applying = standing.clone();
    while standing.applied().id.is_none() {
        if !applying.changed().await {
            return;
        }
    }
    while log.purged().is_none() {
        if !cut_below(standing, log, 1).await && log.purged().is_none() {
            runtime.sleep(PAUSE).await;
        }
    }
}

async fn cut_as_it_grows(
    runtime: &Runtime,
    standing: &Standing,
    log: &LogStore,
    sending: &Sending,
) {
    loop {
        log.grown().await;
        while let Some(keep) = log.first_to_keep(peers(standing, sending)) {
            if !cut_below(standing, log, keep).await {
                runtime.sleep(PAUSE).await;
            }
        }
    }
}

fn peers(standing: &Standing, sending: &Sending) -> Peers {
    let metrics = standing.raft().server_metrics();
    let members = {
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().count()
    };
    match members {
        _ if sending.any() => Peers::SentSnapshot,
        0 | 1 => Peers::None,
        _ => Peers::Following,
    }
}

/// Cuts what is applied of the log below `keep`; false when nothing was cut in the end.
async fn cut_below(standing: &Standing, log: &LogStore, keep: u64) -> bool {
    let Some(applied) = standing.applied().id else {
        return false;
    };
    let Some(upto) = keep.checked_sub(1).map(|index| index.min(applied.index)) else {
        return false;
    };
    let before = log.purged().map(|id| id.index);
    if before.is_some_and(|purged| purged >= upto) {
        return false;
    }
    let raft = standing.raft();
    let mut metrics = raft.metrics();
    let noted = async {
        // Costs nothing: the state machine is its own snapshot.
        while metrics
            .borrow_watched()
            .snapshot
            .is_none_or(|id| id.index < upto)
        {
            if raft.trigger().snapshot().await.is_err() || metrics.changed().await.is_err() {
                return false;
            }
        }
        raft.trigger().purge_log(upto).await.is_ok() && raft.with_raft_state(|_| ()).await.is_ok()
    };
    within(NOTED_LIMIT, noted).await.unwrap_or(false) && log.purged().map(|id| id.index) > before
}
