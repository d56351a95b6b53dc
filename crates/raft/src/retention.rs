//! Cuts a group's log when it has too many entries or bytes.
//!
//! The library could count entries, but those may be a megabyte each. Here they are weighed too: a
//! group with peers keeps some applied entries for those that catch up; a group of one keeps only
//! what came since the last cut. As ever, only what is durably applied is cut.
//!
//! A peer that is sent a snapshot needs every entry since then, until it has caught up: were one
//! cut, it would have to be sent another snapshot, and under load so for ever. That is kept however
//! long it takes, as long as the store has room and the peer gets any further.
//!
//! The group's first entry is cut as soon as it is applied. A replica without any state is then
//! never sent the log from its beginning: the state that the group began with is not in it.

use std::time::Duration;

use granary_runtime::{Runtime, within};
use openraft::async_runtime::watch::WatchReceiver;

use crate::health::State;
use crate::lease::Standing;
use crate::log_store::{LogStore, Peers};
use crate::network::{Sending, Sent};

/// Longest wait for the library to note how far the state machine is.
const NOTED_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a cut that could not be made yet: a peer is being sent those entries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a peer may get no further, between two attempts to send it a snapshot and while it
/// catches up after one, before nothing is kept for it any more.
const STALLED_AFTER: Duration = Duration::from_secs(120);
/// Entries that a peer may lack which has caught up.
const CAUGHT_UP: u64 = 64;

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
        while let Some(keep) = log.first_to_keep(
            peers(standing),
            needed_from(standing, sending, runtime.monotonic()),
        ) {
            if !cut_below(standing, log, keep).await {
                runtime.sleep(PAUSE).await;
            }
        }
    }
}

/// The first entry that a peer needs which is sent a snapshot, or has been and is not caught up yet.
fn needed_from(standing: &Standing, sending: &Sending, now: Duration) -> Option<u64> {
    let watched = standing.raft().metrics();
    let metrics = watched.borrow_watched();
    // `None` where this node does not lead: whoever does sends another one.
    let matched = metrics.replication.as_ref();
    let last = metrics.last_log_index.unwrap_or_default();
    let lowest = sending.lowest(|peer, sent: &mut Sent| {
        let Some(matched) = matched.and_then(|matched| matched.get(&peer.0)) else {
            return false;
        };
        let matched = matched.as_ref().map_or(0, |id| id.index);
        if matched > sent.index && !sent.active {
            (sent.index, sent.progress) = (matched, now);
        }
        let stalled = now.saturating_sub(sent.progress) > STALLED_AFTER;
        let caught_up = matched.saturating_add(CAUGHT_UP) >= last;
        sent.active || !(stalled || caught_up)
    });
    lowest.map(|index| index + 1)
}

fn peers(standing: &Standing) -> Peers {
    let metrics = standing.raft().server_metrics();
    let members = {
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().count()
    };
    match members {
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
