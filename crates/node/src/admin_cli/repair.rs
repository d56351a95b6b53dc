//! `granary admin repair`: wakes the jobs that repair, and shows how far they are until nothing is left.

use std::process::ExitCode;
use std::time::Duration;

use granary_runtime::Runtime;
use indicatif::ProgressStyle;
use serde_json::json;

use super::text::repair_text;
use super::{Cluster, DEGRADED, Reach, progress_bar, show};
use crate::cluster::pb::TriggerRequest;
use crate::cluster::progress::time_left;
use crate::cluster::status::{ClusterStatus, RepairStatus};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What no disk can take for so long is not waited for.
const HELPLESS_AFTER: Duration = Duration::from_secs(30);

/// How far a repair is: first groups get the members that they lack, then every copy is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Groups that lack a complete member.
    pub(super) lacking: u64,
    /// Done, and all, of what it is at: groups or chunks.
    pub(super) done: (u64, u64),
    pub(super) left: Option<Duration>,
    /// What it waits for before it goes on.
    pub(super) waits: Option<Waits>,
}

/// What a repair waits for: see [`RepairStatus::waits_for`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) what: String,
    pub(super) secs: Option<u64>,
}

impl Waits {
    /// What a status says of it, when it waits.
    pub(super) fn of(repair: &RepairStatus) -> Option<Self> {
        let waits = (repair.state == "waits").then_some(repair)?;
        Some(Self {
            what: waits.waits_for.clone()?,
            secs: waits.waits_secs,
        })
    }
}

/// What is known of a repair since somebody looks.
#[derive(Debug, Default)]
struct Watch {
    /// When groups were first seen to lack members (monotonic), and the most of them at once.
    lacking: Option<(Duration, u64)>,
    /// Since when (monotonic) nothing can be done, and what was lacking then.
    helpless: Option<(Duration, u64, u64)>,
}

impl Watch {
    /// What a status says at a time.
    fn look(&mut self, now: Duration, status: &ClusterStatus) -> Progress {
        let (groups, repair) = (&status.groups, &status.repair);
        let lacking = groups.degraded + groups.backfilling + groups.unavailable;
        let waits = Waits::of(repair);
        let left = repair.eta_secs.map(Duration::from_secs);
        if lacking == 0 {
            self.lacking = None;
            let done = (repair.chunks_done, repair.chunks);
            return Progress {
                lacking,
                // What was counted is not what is still to be done.
                done: if waits.is_some() { (0, done.1) } else { done },
                left,
                waits,
            };
        }
        let (since, most) = match self.lacking {
            // More than ever, or nothing can be done yet: the speed so far says nothing of it.
            Some((since, most)) if lacking <= most && waits.is_none() => (since, most),
            Some((_, most)) => (now, most.max(lacking)),
            None => (now, lacking),
        };
        self.lacking = Some((since, most));
        let done = most - lacking;
        let own = || time_left(now.saturating_sub(since), done, most);
        Progress {
            lacking,
            done: (done, most),
            left: left.or_else(own).filter(|_| waits.is_none()),
            waits,
        }
    }
}

impl Watch {
    /// True when all that is lacking is counted, and no disk could take any of it for a while.
    fn is_helpless(&mut self, now: Duration, status: &ClusterStatus, progress: &Progress) -> bool {
        let for_disks = |waits: &Waits| waits.what == "disks";
        let waits = progress.waits.as_ref().is_some_and(for_disks);
        let below = status.chunks_below_target.filter(|_| waits);
        let now_lacks = below.map(|below| (below, progress.lacking));
        self.helpless = match (self.helpless, now_lacks) {
            (_, None) => None,
            (Some((since, below, groups)), Some(lacks)) if (below, groups) == lacks => {
                Some((since, below, groups))
            }
            (_, Some((below, groups))) => Some((now, below, groups)),
        };
        let since = self.helpless.map(|(since, ..)| since);
        since.is_some_and(|since| now.saturating_sub(since) >= HELPLESS_AFTER)
    }
}

impl Cluster {
    /// Wakes the jobs that repair, on whichever node they run.
    async fn wake(&mut self) {
        for worker in ["placement-keeper", "redundancy", "member-keeper"] {
            for (_, client) in &mut self.clients {
                let request = TriggerRequest {
                    worker: worker.to_owned(),
                };
                // Whoever answers tells the others; without an answer they look by themselves, later.
                let _ = client.trigger(request).await;
            }
        }
    }

    pub(super) async fn repair(
        &mut self,
        reach: &Reach,
        runtime: &Runtime,
    ) -> anyhow::Result<ExitCode> {
        self.wake().await;
        let bar = progress_bar(reach);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        let (mut watch, mut tell_at) = (Watch::default(), runtime.monotonic());
        loop {
            let status = self.status().await?;
            let progress = watch.look(runtime.monotonic(), &status);
            let repair = &status.repair;
            if reach.json {
                crate::print(&serde_json::to_string(&json!({
                    "done": false,
                    "chunks_below_target": status.chunks_below_target,
                    "chunks_lost": status.chunks_lost,
                    "groups_waiting": progress.lacking,
                    "groups_done": repair.groups_done,
                    "groups": repair.groups,
                    "chunks_done": repair.chunks_done,
                    "chunks": repair.chunks,
                    "running_ms": repair.running_ms,
                    "state": repair.state,
                    "waits_for": repair.waits_for,
                    "waits_secs": repair.waits_secs,
                    "eta_secs": progress.left.map(|left| left.as_secs()),
                }))?);
            }
            let text = repair_text(&progress);
            // Of nothing at all nothing is done.
            bar.set_length(progress.done.1.max(1));
            bar.set_position(progress.done.0);
            bar.set_message(text.clone());
            if watch.is_helpless(runtime.monotonic(), &status, &progress) {
                bar.finish_and_clear();
                let below = status.chunks_below_target.unwrap_or(0);
                let lacking = progress.lacking;
                let value = json!({
                    "done": true,
                    "chunks_below_target": below,
                    "groups_waiting": lacking,
                });
                show(reach, &value, || {
                    format!(
                        "{lacking} placement groups lack members for which their zones have no disks; \
                         {below} chunks lack copies."
                    )
                })?;
                return Ok(ExitCode::from(DEGRADED));
            }
            let helpless = status.chunks_in_narrow_zones.unwrap_or(0);
            if progress.lacking == 0 && status.chunks_below_target == Some(helpless) {
                bar.finish_and_clear();
                let value = json!({ "done": true, "chunks_below_target": helpless });
                show(reach, &value, || match helpless {
                    0 => "Every chunk has all the copies it should have.".to_owned(),
                    _ => format!(
                        "{helpless} chunks lack copies for which their zones have no disks."
                    ),
                })?;
                return Ok(match helpless {
                    0 => ExitCode::SUCCESS,
                    _ => ExitCode::from(DEGRADED),
                });
            }
            // Where nobody sees the bar.
            if bar.is_hidden() && !reach.json && runtime.monotonic() >= tell_at {
                crate::print(&text);
                tell_at = runtime.monotonic() + LINE_INTERVAL;
            }
            runtime.sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::status::GroupCounts;

    #[test]
    fn a_repair_is_told_by_what_it_is_at() {
        let secs = Duration::from_secs;
        let mut watch = Watch::default();
        for (at, degraded, chunks, eta, expected) in [
            (100, 8, 0, None, "8 groups lack a complete member"),
            (102, 6, 0, None, "6 groups lack a complete member"),
            // Two in ten seconds.
            (
                110,
                6,
                0,
                None,
                "6 groups lack a complete member, about 30 s left",
            ),
            (
                400,
                4,
                0,
                None,
                "4 groups lack a complete member, about 5 min left",
            ),
            // Another disk is lost: the speed is measured anew.
            (401, 20, 0, None, "20 groups lack a complete member"),
            (402, 1, 0, None, "1 group lacks a complete member"),
            (500, 0, 0, None, "begins to count all copies"),
            (
                501,
                0,
                12_300,
                Some(240),
                "12,300 of 40,000 chunks, about 4 min left",
            ),
            (502, 0, 12_300, None, "12,300 of 40,000 chunks"),
        ] {
            let status = ClusterStatus {
                groups: GroupCounts {
                    degraded,
                    ..GroupCounts::default()
                },
                repair: RepairStatus {
                    chunks_done: chunks,
                    chunks: if chunks > 0 { 40_000 } else { 0 },
                    eta_secs: eta,
                    ..RepairStatus::default()
                },
                ..ClusterStatus::default()
            };
            let progress = watch.look(secs(at), &status);
            assert_eq!(repair_text(&progress), expected, "after {at} s");
        }
    }

    #[test]
    fn what_no_disk_can_take_is_waited_for_only_a_while() {
        let mut watch = Watch::default();
        for (at, what, below, groups, expected) in [
            (100, "replace_after_secs", Some(0), 16, false),
            (200, "disks", None, 16, false),
            (240, "disks", Some(5), 16, false),
            // It gets less.
            (260, "disks", Some(0), 16, false),
            (289, "disks", Some(0), 16, false),
            (290, "disks", Some(0), 16, true),
            (291, "count", Some(0), 16, false),
            (292, "disks", Some(0), 16, false),
        ] {
            let status = ClusterStatus {
                groups: GroupCounts {
                    degraded: groups,
                    ..GroupCounts::default()
                },
                chunks_below_target: below,
                repair: RepairStatus {
                    state: "waits".to_owned(),
                    waits_for: Some(what.to_owned()),
                    ..RepairStatus::default()
                },
                ..ClusterStatus::default()
            };
            let now = Duration::from_secs(at);
            let progress = watch.look(now, &status);
            let found = watch.is_helpless(now, &status, &progress);
            assert_eq!(found, expected, "after {at} s");
        }
    }

    #[test]
    fn a_repair_that_waits_is_not_shown_as_done() {
        let status = |degraded, what: &str, waits_secs| ClusterStatus {
            groups: GroupCounts {
                degraded,
                ..GroupCounts::default()
            },
            repair: RepairStatus {
                state: "waits".to_owned(),
                waits_for: Some(what.to_owned()),
                waits_secs,
                chunks_done: 5754,
                chunks: 5754,
                ..RepairStatus::default()
            },
            ..ClusterStatus::default()
        };
        let mut watch = Watch::default();
        for (status, done, text) in [
            (
                status(8, "replace_after_secs", Some(41)),
                (0, 8),
                "8 groups lack a complete member, waits 41 s (replace_after_secs)",
            ),
            (
                status(0, "count", Some(12)),
                (0, 5754),
                "waits 12 s for the next count of all copies",
            ),
            (
                status(1, "disks", None),
                (0, 1),
                "1 group lacks a complete member, waits for disks that can take what is missing",
            ),
        ] {
            let progress = watch.look(Duration::from_secs(100), &status);
            assert_eq!((progress.done, progress.left), (done, None));
            assert_eq!(repair_text(&progress), text);
        }
    }
}
