//! What a repair is at, or waits for, from what its jobs say. Pure.

use std::time::Duration;

use crate::cluster::progress::time_left;
use crate::cluster::status::{
    ClusterStatus, DiskStatus, RedundancyReport, RepairStatus, WaitsReport,
};

/// When each disk that is away is given up, and with them their nodes that do not answer.
pub(super) fn note_given_up(status: &mut ClusterStatus, waits: &WaitsReport) {
    for away in &waits.gives_up {
        let disk = status.disks.iter_mut().find(|disk| disk.id == away.disk);
        if let Some(disk) = disk.filter(|disk| !disk.answers() && disk.is_in_service()) {
            disk.given_up_in_secs = Some(secs(away.in_ms));
        }
    }
    for node in status.nodes.iter_mut().filter(|node| node.state == "down") {
        let own = |disk: &&DiskStatus| disk.node == node.id;
        let disks = status.disks.iter().filter(own);
        node.given_up_in_secs = disks.filter_map(|disk| disk.given_up_in_secs).min();
    }
}

/// Tells groups that lack members for whose places there is no disk, and nothing else, from those that
/// are to be filled: when all copies were counted since, and no chunk has too few, nothing is missing.
pub(super) fn note_vacant(status: &mut ClusterStatus, waits: &WaitsReport) {
    let is_waited = waits.replaces_in_ms.is_some() || !waits.gives_up.is_empty();
    let groups = &mut status.groups;
    if !is_waited
        && !waits.held_back
        && groups.backfilling == 0
        && status.chunks_below_target == Some(0)
    {
        groups.vacant = std::mem::take(&mut groups.degraded);
    }
}

/// The state of the repair: of groups that lack members, and of the count of all copies.
pub(super) fn repair_status(
    counted: Option<&RedundancyReport>,
    waits: Option<&WaitsReport>,
    status: &ClusterStatus,
) -> RepairStatus {
    let mut repair = counted.map(comparison).unwrap_or_default();
    let groups = &status.groups;
    let lacking = groups.degraded + groups.backfilling + groups.unavailable;
    if let Some(waits) = waits {
        (repair.groups_filled, repair.groups_to_fill) = (waits.groups_done, waits.groups);
    }
    if lacking == 0 {
        let narrow = status.chunks_in_narrow_zones.unwrap_or(0);
        let is_open = status
            .chunks_below_target
            .is_none_or(|below| below > narrow);
        let next = counted.and_then(|counted| counted.begins_in_ms);
        return match (repair.running, is_open) {
            (true, _) => runs(repair),
            (false, true) => waits_for(repair, "count", next),
            (false, false) => repair,
        };
    }
    if groups.backfilling > 0 {
        repair.eta_secs = waits.and_then(|waits| {
            let since = Duration::from_millis(waits.since_ms?);
            Some(time_left(since, waits.groups_done, waits.groups)?.as_secs())
        });
        return runs(repair);
    }
    let first = waits.and_then(|waits| waits.gives_up.iter().min_by_key(|away| away.in_ms));
    match (waits.and_then(|waits| waits.replaces_in_ms), first) {
        (Some(left), _) => waits_for(repair, "replace_after_secs", Some(left)),
        (None, Some(away)) if away.missing => {
            waits_for(repair, "missing_out_secs", Some(away.in_ms))
        }
        (None, Some(away)) => waits_for(repair, "unreachable_out_secs", Some(away.in_ms)),
        (None, None) if repair.running => runs(repair),
        (None, None) => match waits {
            None => waits_for(repair, "keeper", None),
            Some(waits) if waits.held_back => waits_for(repair, "silence", None),
            Some(_) => waits_for(repair, "disks", None),
        },
    }
}

/// The comparison that is under way, or the last one.
fn comparison(counted: &RedundancyReport) -> RepairStatus {
    let (done, all) = (counted.chunks_done, counted.chunks);
    let running = counted.running_ms.map(Duration::from_millis);
    let left = running.and_then(|running| time_left(running, done, all));
    RepairStatus {
        // A node of an older version does not say for how long.
        running: running.is_some() || counted.groups_done < counted.groups,
        state: "idle".to_owned(),
        groups_done: counted.groups_done,
        groups: counted.groups,
        chunks_done: done,
        chunks: all,
        running_ms: counted.running_ms,
        eta_secs: left.map(|left| left.as_secs()),
        ..RepairStatus::default()
    }
}

fn runs(repair: RepairStatus) -> RepairStatus {
    RepairStatus {
        state: "runs".to_owned(),
        ..repair
    }
}

fn waits_for(repair: RepairStatus, what: &str, left_ms: Option<u64>) -> RepairStatus {
    RepairStatus {
        state: "waits".to_owned(),
        waits_for: Some(what.to_owned()),
        waits_secs: left_ms.map(secs),
        eta_secs: None,
        ..repair
    }
}

/// Seconds that are not over before the time is.
fn secs(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::status::{AwayReport, GroupCounts, NodeStatus};

    fn away(disk: u64, in_ms: u64, missing: bool) -> AwayReport {
        AwayReport {
            disk,
            in_ms,
            missing,
        }
    }

    #[test]
    fn a_repair_says_what_it_waits_for_and_for_how_long() {
        let counted = RedundancyReport {
            groups_done: 24,
            groups: 24,
            chunks_done: 5754,
            chunks: 5754,
            begins_in_ms: Some(12_001),
            ..RedundancyReport::default()
        };
        let under_way = RedundancyReport {
            chunks_done: 3507,
            running_ms: Some(9000),
            begins_in_ms: None,
            ..counted.clone()
        };
        let nothing = WaitsReport::default();
        let replaced = WaitsReport {
            replaces_in_ms: Some(41_000),
            gives_up: vec![away(5, 100, false)],
            ..WaitsReport::default()
        };
        let silent = WaitsReport {
            gives_up: vec![away(5, 840_000, false), away(6, 841_000, false)],
            ..WaitsReport::default()
        };
        let exchanged = WaitsReport {
            gives_up: vec![away(5, 840_000, false), away(6, 20_000, true)],
            ..WaitsReport::default()
        };
        let held_back = WaitsReport {
            held_back: true,
            ..WaitsReport::default()
        };
        let filling = WaitsReport {
            groups_done: 6,
            groups: 8,
            since_ms: Some(9000),
            ..WaitsReport::default()
        };
        for (counted, waits, groups, below, expected) in [
            (
                &counted,
                &nothing,
                (0, 0),
                Some(0),
                ("idle", None, None, None),
            ),
            (
                &under_way,
                &nothing,
                (0, 0),
                None,
                ("runs", None, None, Some(5)),
            ),
            (
                &counted,
                &nothing,
                (0, 0),
                None,
                ("waits", Some("count"), Some(13), None),
            ),
            (
                &counted,
                &replaced,
                (8, 0),
                None,
                ("waits", Some("replace_after_secs"), Some(41), None),
            ),
            (
                &counted,
                &silent,
                (8, 0),
                None,
                ("waits", Some("unreachable_out_secs"), Some(840), None),
            ),
            (
                &counted,
                &exchanged,
                (8, 0),
                None,
                ("waits", Some("missing_out_secs"), Some(20), None),
            ),
            (
                &counted,
                &filling,
                (1, 1),
                None,
                ("runs", None, None, Some(3)),
            ),
            (
                &counted,
                &nothing,
                (8, 0),
                None,
                ("waits", Some("disks"), None, None),
            ),
            (
                &counted,
                &held_back,
                (8, 0),
                Some(0),
                ("waits", Some("silence"), None, None),
            ),
        ] {
            let status = ClusterStatus {
                groups: GroupCounts {
                    degraded: groups.0,
                    backfilling: groups.1,
                    ..GroupCounts::default()
                },
                chunks_below_target: below,
                ..ClusterStatus::default()
            };
            let found = repair_status(Some(counted), Some(waits), &status);
            let told = (
                found.state.as_str(),
                found.waits_for.as_deref(),
                found.waits_secs,
                found.eta_secs,
            );
            assert_eq!(told, expected, "{waits:?}");
        }
        let lacking = ClusterStatus {
            groups: GroupCounts {
                degraded: 8,
                ..GroupCounts::default()
            },
            ..ClusterStatus::default()
        };
        let unheard = repair_status(Some(&counted), None, &lacking);
        assert_eq!(unheard.waits_for.as_deref(), Some("keeper"));
    }

    #[test]
    fn groups_without_disks_are_vacant_when_nothing_is_missing() {
        let nothing = WaitsReport::default();
        let silent = WaitsReport {
            gives_up: vec![away(5, 840_000, false)],
            ..WaitsReport::default()
        };
        let replaced = WaitsReport {
            replaces_in_ms: Some(41_000),
            ..WaitsReport::default()
        };
        for (waits, backfilling, below, vacant) in [
            (&nothing, 0, Some(0), 8),
            (&nothing, 0, Some(3), 0),
            // Not counted since they lack a member.
            (&nothing, 0, None, 0),
            (&nothing, 1, Some(0), 0),
            (&silent, 0, Some(0), 0),
            (&replaced, 0, Some(0), 0),
        ] {
            let mut status = ClusterStatus {
                groups: GroupCounts {
                    degraded: 8,
                    backfilling,
                    ..GroupCounts::default()
                },
                chunks_below_target: below,
                ..ClusterStatus::default()
            };
            note_vacant(&mut status, waits);
            assert_eq!(status.groups.vacant, vacant, "{waits:?} {below:?}");
            assert_eq!(status.groups.degraded, 8 - vacant);
        }
    }

    #[test]
    fn a_node_that_is_down_says_when_it_is_given_up() {
        let disk = |id, state: &str| DiskStatus {
            id,
            node: 4,
            state: state.to_owned(),
            ..DiskStatus::default()
        };
        let mut status = ClusterStatus {
            disks: vec![disk(5, "unknown"), disk(6, "unknown"), disk(7, "removed")],
            nodes: vec![NodeStatus {
                id: 4,
                state: "down".to_owned(),
                ..NodeStatus::default()
            }],
            ..ClusterStatus::default()
        };
        let waits = WaitsReport {
            gives_up: vec![
                away(5, 840_000, false),
                away(6, 839_500, false),
                away(7, 1, false),
            ],
            ..WaitsReport::default()
        };
        note_given_up(&mut status, &waits);
        let disks: Vec<_> = status.disks.iter().map(|d| d.given_up_in_secs).collect();
        assert_eq!(disks, [Some(840), Some(840), None]);
        assert_eq!(status.nodes[0].given_up_in_secs, Some(840));
    }
}
