//! Reports as people read them.

use std::fmt::Write as _;
use std::time::Duration;

use granary_workers::{Damage, FsckReport, ScrubReport};

use super::repair::{Progress, Waits};
use crate::cluster::progress::{grouped, left_text, wait_text};
use crate::cluster::rebuild::Rebuilt;
use crate::cluster::status::{ClusterStatus, NodeStatus};

pub(super) fn fsck_text(report: &FsckReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} chunks, {} of {} copies looked at, {} bytes read.",
        report.chunks_referenced,
        report.copies_checked,
        report.copies_expected,
        report.bytes_checked
    );
    for (count, what) in [
        (report.copies_missing, "copies are missing"),
        (report.copies_corrupt, "copies are damaged"),
        (
            report.chunks_lost,
            "chunks are lost: they have no good copy",
        ),
        (
            report.chunks_outside,
            "chunks have no good copy but on a disk outside of their group (repair copies them back)",
        ),
        (report.chunks_unreferenced, "chunks belong to nothing"),
        (
            report.chunks_pending,
            "chunks wait for a commit or their deletion",
        ),
        (
            report.chunks_unswept,
            "chunks of writes that were broken off wait for the sweep",
        ),
    ] {
        if count > 0 {
            let _ = writeln!(text, "{count} {what}.");
        }
    }
    findings(&mut text, &report.damage);
    for problem in &report.problems {
        let _ = writeln!(text, "not looked at: {problem}");
    }
    let verdict = match (report.complete, report.clean) {
        (_, true) => "Clean.",
        (true, false) => "There is damage.",
        (false, _) => "Not everything could be looked at.",
    };
    let _ = writeln!(text, "{verdict}");
    text
}

pub(super) fn scrub_text(report: &ScrubReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} copies, {} bytes read; {} copies were damaged, {} of them are good again.",
        report.copies_checked, report.bytes_checked, report.copies_damaged, report.copies_repaired
    );
    if report.chunks_differing > 0 {
        let _ = writeln!(
            text,
            "{} chunks had copies that differ, {} of them are settled.",
            report.chunks_differing, report.chunks_settled
        );
    }
    findings(&mut text, &report.damage);
    for problem in &report.problems {
        let _ = writeln!(text, "not read: {problem}");
    }
    let verdict = match (report.complete, report.clean) {
        (_, true) => "Clean.",
        (true, false) => "There is damage that could not be put right.",
        (false, _) => "Not everything could be read.",
    };
    let _ = writeln!(text, "{verdict}");
    text
}

/// A line for each finding. A scrub knows no buckets and no keys.
fn findings(text: &mut String, damage: &[Damage]) {
    for found in damage {
        let disk = found
            .disk
            .map(|disk| format!(", disk {disk}"))
            .unwrap_or_default();
        let key = match (found.bucket, found.key.as_str()) {
            (0, "") => String::new(),
            (bucket, key) => format!(", bucket {bucket}, key {key:?}"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {} {} (group {}{disk}{key}) {}",
            found.kind, found.chunk, found.group, found.detail
        );
    }
}

/// How far a repair is.
pub(super) fn repair_text(progress: &Progress) -> String {
    let (done, all) = progress.done;
    let mut text = match progress.lacking {
        0 if all == 0 || progress.waits.is_some() => String::new(),
        0 => format!("{} of {} chunks", grouped(done), grouped(all)),
        1 => "1 group lacks a complete member".to_owned(),
        lacking => format!("{} groups lack a complete member", grouped(lacking)),
    };
    let more = match (&progress.waits, progress.left) {
        (Some(waits), _) => waits_text(waits),
        (None, Some(left)) => left_text(left),
        (None, None) if text.is_empty() => "begins to count all copies".to_owned(),
        (None, None) => return text,
    };
    if !text.is_empty() {
        text.push_str(", ");
    }
    text + &more
}

/// What a repair waits for.
fn waits_text(waits: &Waits) -> String {
    let left = waits.secs.map(wait_text);
    match (waits.what.as_str(), left) {
        ("count", None) => "waits for the next count of all copies".to_owned(),
        ("count", Some(left)) => format!("waits {left} for the next count of all copies"),
        ("disks", _) => "waits for disks that can take what is missing".to_owned(),
        ("silence", _) => "waits: so many disks are silent that none is given up".to_owned(),
        ("keeper", _) => "waits for the job that gives others their places to look".to_owned(),
        (what, None) => format!("waits ({what})"),
        (what, Some(left)) => format!("waits {left} ({what})"),
    }
}

/// The line of the status about the repair, when there is anything to say.
fn repair_line(status: &ClusterStatus) -> Option<String> {
    let repair = &status.repair;
    let left = repair.eta_secs.map(Duration::from_secs).map(left_text);
    let left = left.map(|left| format!(", {left}")).unwrap_or_default();
    let narrow = status.chunks_in_narrow_zones.unwrap_or(0);
    let groups = &status.groups;
    let is_whole = groups.degraded + groups.backfilling + groups.unavailable == 0;
    let is_well = is_whole && status.chunks_below_target == Some(narrow);
    let chunks = || {
        let (done, all) = (grouped(repair.chunks_done), grouped(repair.chunks));
        format!("{done} of {all} chunks")
    };
    match repair.state.as_str() {
        "waits" => Waits::of(repair).map(|waits| format!("Repair: {}", waits_text(&waits))),
        "runs" if !is_whole && repair.groups_to_fill > 0 => {
            let (done, all) = (repair.groups_filled, repair.groups_to_fill);
            let (done, all) = (grouped(done), grouped(all));
            Some(format!(
                "Repair: runs, {done} of {all} groups are filled{left}"
            ))
        }
        "runs" if !is_well => Some(format!("Repair: runs, {}{left}", chunks())),
        _ if repair.running => Some(format!("Comparing copies: {}{left}", chunks())),
        _ => None,
    }
}

pub(super) fn rebuilt_text(rebuilt: &Rebuilt) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Cluster {}: {} disks were read.",
        rebuilt.cluster_id, rebuilt.disks
    );
    let number = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
    let shards = rebuilt.shards.iter().map(|shard| {
        vec![
            shard.shard.to_string(),
            shard.checkpoints.to_string(),
            number(shard.checkpoint),
            number(shard.reached),
            shard
                .age_secs
                .map_or_else(|| "-".to_owned(), |n| n.to_string()),
            shard.problems.join("; "),
        ]
    });
    table(
        &mut text,
        &[
            "shard",
            "checkpoints",
            "checkpoint",
            "log up to",
            "age (s)",
            "missing",
        ],
        shards,
    );
    for shard in &rebuilt.missing {
        let _ = writeln!(text, "Shard {shard} is missing.");
    }
    for problem in &rebuilt.problems {
        let _ = writeln!(text, "Not read: {problem}");
    }
    if !rebuilt.unknown_groups.is_empty() {
        let groups = rebuilt.unknown_groups.iter().map(ToString::to_string);
        let _ = writeln!(
            text,
            "Placement groups {} are on disks and unknown to the root: what is in them belongs to \
             nothing and stays.",
            groups.collect::<Vec<_>>().join(", ")
        );
    }
    for node in &rebuilt.removed {
        let _ = writeln!(text, "Node {node} did not answer and is given up for good.");
    }
    for address in &rebuilt.not_told {
        let _ = writeln!(text, "{address} is told of the new node once that runs.");
    }
    match (&rebuilt.refused, rebuilt.node_id) {
        (Some(why), _) => {
            let _ = writeln!(text, "\nNot rebuilt: {why}.");
        }
        (None, node) => {
            let _ = writeln!(
                text,
                "\nThis machine is node {} now: run granary start.",
                number(node)
            );
        }
    }
    text
}

pub(super) fn status_text(status: &ClusterStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Cluster {} ({}): {}",
        status.cluster_id, status.region, status.health
    );
    for problem in &status.problems {
        let _ = writeln!(text, "  {problem}");
    }
    if let Some(waiting) = level_text(status) {
        let _ = writeln!(text, "{waiting}");
    }
    let nodes = status.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            node.zone.clone(),
            node.state.clone(),
            node.address.clone(),
            node.roles.join(","),
        ]
    });
    table(
        &mut text,
        &["node", "zone", "state", "address", "roles"],
        nodes,
    );
    let disks = status.disks.iter().map(|disk| {
        vec![
            disk.id.to_string(),
            disk.node.to_string(),
            disk.state.clone(),
            // Nobody knows what is on a disk that does not answer.
            match disk.used_bytes {
                Some(used) if disk.answers() => gib(used),
                _ => "-".to_owned(),
            },
            gib(disk.total_bytes),
            disk.path.clone(),
        ]
    });
    table(
        &mut text,
        &["disk", "node", "state", "used", "size", "path"],
        disks,
    );
    let shards = status.shards.iter().map(|shard| {
        let lag = shard.lag.values().map(|lag| lag.unwrap_or(u64::MAX)).max();
        vec![
            shard.id.to_string(),
            shard
                .leader
                .map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            shard.term.to_string(),
            ids(&shard.voters),
            ids(&shard.learners),
            match lag {
                Some(u64::MAX) => "unknown".to_owned(),
                Some(lag) => lag.to_string(),
                None => String::new(),
            },
        ]
    });
    table(
        &mut text,
        &["shard", "leader", "term", "voters", "learners", "lag"],
        shards,
    );
    let groups = &status.groups;
    let _ = write!(
        text,
        "\nPlacement groups: {} healthy, {} lack a member, {} being filled, {} cannot be read",
        groups.healthy, groups.degraded, groups.backfilling, groups.unavailable
    );
    match groups.vacant {
        0 => text.push('\n'),
        vacant => {
            let _ = writeln!(text, ", {vacant} vacant (nothing is missing)");
        }
    }
    let below = status.chunks_below_target;
    let below = below.map_or_else(|| "not counted yet".to_owned(), |below| below.to_string());
    let _ = writeln!(text, "Chunks below their redundancy: {below}");
    if let Some(line) = repair_line(status) {
        let _ = writeln!(text, "{line}");
    }
    let capacity = &status.capacity;
    let _ = writeln!(
        text,
        "Capacity: {} used of {}",
        gib(capacity.used_bytes),
        gib(capacity.total_bytes)
    );
    if let Some(bytes) = status.reclaimable_bytes {
        let queued = status.deletions_queued.unwrap_or_default();
        let _ = writeln!(
            text,
            "To be freed: {} and {queued} queued deletions",
            gib(bytes)
        );
    }
    text
}

/// What the feature level waits for, when it is below what some node applies. From a node of a version
/// that does not tell it comes as 0.
fn level_text(status: &ClusterStatus) -> Option<String> {
    let nodes = status.nodes.iter().filter(|node| node.state != "removed");
    let is_meta =
        |node: &&NodeStatus| node.roles.is_empty() || node.roles.iter().any(|role| role == "meta");
    let meta: Vec<&NodeStatus> = nodes.filter(is_meta).collect();
    let newest = meta.iter().map(|node| node.feature_level).max()?;
    if status.feature_level == 0 || status.feature_level >= newest {
        return None;
    }
    let older = meta.iter().filter(|node| node.feature_level < newest);
    let older: Vec<u64> = older.map(|node| node.id).collect();
    let waits = match older.as_slice() {
        [] => "it rises in a moment".to_owned(),
        older => format!(
            "it rises when these metadata nodes run it, too: {}",
            ids(older)
        ),
    };
    Some(format!(
        "Feature level {} of {newest}, which a newer version applies: {waits}",
        status.feature_level
    ))
}

fn ids(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    ids.join(",")
}

fn gib(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        bytes => format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
    }
}

/// Columns as wide as what stands in them.
fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(heads[column].len())
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut line = |cells: &[String]| {
        let mut row = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(row, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "  {}", row.trim_end());
    };
    line(&[]);
    line(
        &heads
            .iter()
            .map(|head| (*head).to_owned())
            .collect::<Vec<_>>(),
    );
    for row in &rows {
        line(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::status::{GroupCounts, RepairStatus};

    #[test]
    fn the_status_says_what_the_repair_is_at() {
        let repair = RepairStatus {
            groups: 24,
            groups_done: 24,
            chunks: 5754,
            chunks_done: 3507,
            ..RepairStatus::default()
        };
        let waits = |what: &str, secs| RepairStatus {
            state: "waits".to_owned(),
            waits_for: Some(what.to_owned()),
            waits_secs: secs,
            ..repair.clone()
        };
        let runs = |groups_to_fill| RepairStatus {
            state: "runs".to_owned(),
            running: true,
            groups_filled: 6,
            groups_to_fill,
            eta_secs: Some(3),
            ..repair.clone()
        };
        for (repair, degraded, below, expected) in [
            (repair.clone(), 0, Some(0), ""),
            (
                waits("replace_after_secs", Some(41)),
                8,
                None,
                "Repair: waits 41 s (replace_after_secs)",
            ),
            (
                waits("unreachable_out_secs", Some(840)),
                8,
                None,
                "Repair: waits 14 min (unreachable_out_secs)",
            ),
            (
                waits("count", Some(12)),
                0,
                None,
                "Repair: waits 12 s for the next count of all copies",
            ),
            (
                runs(8),
                2,
                None,
                "Repair: runs, 6 of 8 groups are filled, about 3 s left",
            ),
            (
                runs(0),
                0,
                Some(3187),
                "Repair: runs, 3,507 of 5,754 chunks, about 3 s left",
            ),
            (
                runs(0),
                0,
                Some(0),
                "Comparing copies: 3,507 of 5,754 chunks, about 3 s left",
            ),
        ] {
            let status = ClusterStatus {
                groups: GroupCounts {
                    degraded,
                    ..GroupCounts::default()
                },
                chunks_below_target: below,
                chunks_in_narrow_zones: Some(0),
                repair,
                ..ClusterStatus::default()
            };
            assert_eq!(repair_line(&status).unwrap_or_default(), expected);
        }
    }

    #[test]
    fn the_status_says_what_the_feature_level_waits_for() {
        let node = |id: u64, role: &str, state: &str, feature_level: u64| NodeStatus {
            id,
            roles: vec![role.to_owned()],
            state: state.to_owned(),
            feature_level,
            ..NodeStatus::default()
        };
        let status = |feature_level: u64, nodes: &[NodeStatus]| ClusterStatus {
            feature_level,
            nodes: nodes.to_vec(),
            ..ClusterStatus::default()
        };
        let (new, old) = (node(1, "meta", "up", 2), node(3, "meta", "down", 1));
        let (gone, bytes) = (node(4, "meta", "removed", 1), node(5, "storage", "up", 1));
        let waits = level_text(&status(1, &[new.clone(), old.clone(), gone.clone()])).unwrap();
        assert!(
            waits.contains("level 1 of 2") && waits.ends_with("too: 3"),
            "{waits}"
        );
        let risen = level_text(&status(1, &[new.clone(), gone.clone(), bytes.clone()])).unwrap();
        assert!(risen.ends_with("in a moment"), "{risen}");
        for (level, nodes) in [
            (2, vec![new.clone(), bytes]),
            (1, vec![old]),
            // Told by a node of a version that does not know it.
            (0, vec![new]),
        ] {
            assert_eq!(level_text(&status(level, &nodes)), None);
        }
    }
}
