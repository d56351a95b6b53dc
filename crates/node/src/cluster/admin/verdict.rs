//! What is wrong with a cluster, in sentences, and how bad that is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{DiskId, NodeId};

use crate::cluster::progress::wait_text;
use crate::cluster::status::{ClusterStatus, DiskStatus, NodeStatus, ShardStatus};

/// A disk that is gone is no problem any more once another one has its place and no group needs it:
/// an empty disk in the directory of a lost one is all that an operator has to give.
pub(super) fn mark_replaced(disks: &mut [DiskStatus], needed: impl Fn(DiskId) -> bool) {
    let present: BTreeSet<(u64, String)> = disks
        .iter()
        .filter(|disk| matches!(disk.state.as_str(), "up" | "full"))
        .map(|disk| (disk.node, disk.path.clone()))
        .collect();
    for disk in disks.iter_mut().filter(|disk| disk.state == "missing") {
        if present.contains(&(disk.node, disk.path.clone())) && !needed(DiskId(disk.id)) {
            disk.state = "replaced".to_owned();
        }
    }
}

fn has_removed_voter(shard: &ShardStatus, nodes: &[NodeStatus]) -> bool {
    let removed = |voter: &u64| {
        let known = nodes.iter().find(|node| node.id == *voter);
        known.is_none_or(|node| node.state == "removed")
    };
    shard.voters.iter().any(removed)
}

/// That voters were given up and no other meta node is there to take their place, if so. As long as
/// they vote, less may fail.
pub(super) fn no_successor(shards: &[ShardStatus], nodes: &[NodeStatus]) -> Option<String> {
    let may_vote = |node: &&NodeStatus| {
        let meta = node.roles.is_empty() || node.roles.iter().any(|role| role == "meta");
        node.state != "removed" && meta
    };
    let may_vote = nodes.iter().filter(may_vote).count();
    let waits =
        |shard: &&ShardStatus| shard.voters.len() > may_vote && has_removed_voter(shard, nodes);
    match shards.iter().filter(waits).count() {
        0 => None,
        1 => Some(
            "1 shard has a voter that was given up, and no other meta node can take its place: \
                   join one (role meta)"
                .to_owned(),
        ),
        waiting => Some(format!(
            "{waiting} shards have a voter that was given up, and no other meta node can take its place: \
             join one (role meta)"
        )),
    }
}

/// Shards that decide with fewer voters than they should have: less may fail. What has no leader is said
/// elsewhere.
fn short_of_voters(shards: &[ShardStatus], wanted: u64) -> Vec<String> {
    let mut short: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.leader.is_some()) {
        let voters = shard.voters.len();
        if (voters as u64) < wanted {
            short.entry(voters).or_default().push(shard.id);
        }
    }
    let told = short.into_iter().map(|(voters, shards)| match shards[..] {
        [shard] => format!("shard {shard} has {voters} of {wanted} voters"),
        _ => format!("{} shards have {voters} of {wanted} voters", shards.len()),
    });
    told.collect()
}

/// Says what is wrong, in sentences.
pub(super) fn judge(status: &mut ClusterStatus, nodes: &[NodeId]) {
    let problems = &mut status.problems;
    for node in &status.nodes {
        if node.state == "down" {
            let until = node.given_up_in_secs.map(|secs| {
                let left = wait_text(secs);
                format!(": its disks are given up in {left} unless it returns")
            });
            problems.push(format!(
                "node {} ({}) does not answer{}",
                node.id,
                node.address,
                until.unwrap_or_default()
            ));
        }
    }
    for disk in &status.disks {
        if matches!(
            disk.state.as_str(),
            "failed" | "missing" | "full" | "unknown" | "opening"
        ) {
            let down = |node: &NodeStatus| node.id == disk.node && node.state == "down";
            let is_told = status.nodes.iter().any(down);
            let until = disk.given_up_in_secs.filter(|_| !is_told).map(|secs| {
                let left = wait_text(secs);
                format!(", given up in {left} unless it returns")
            });
            problems.push(format!(
                "disk {} on node {} ({}): {}{}",
                disk.id,
                disk.node,
                disk.path,
                disk.state,
                until.unwrap_or_default()
            ));
        }
    }
    let without_successor = no_successor(&status.shards, &status.nodes);
    problems.extend(without_successor.clone());
    let mut leaderless = 0;
    for shard in &status.shards {
        leaderless += usize::from(shard.leader.is_none());
        if shard.leader.is_none() {
            problems.push(format!("shard {} has no leader", shard.id));
        }
        if without_successor.is_none() && has_removed_voter(shard, &status.nodes) {
            problems.push(format!(
                "shard {} still has a voter that was removed",
                shard.id
            ));
        }
    }
    problems.extend(short_of_voters(
        &status.shards,
        status.voters_per_shard.unwrap_or(0),
    ));
    let clocks = status.shards.iter().flat_map(|shard| &shard.wrong_clocks);
    for (node, ahead_ms) in clocks.collect::<BTreeMap<_, _>>() {
        let (seconds, which) = (ahead_ms.unsigned_abs() / 1000, *ahead_ms > 0);
        let which = if which { "ahead of" } else { "behind" };
        problems.push(format!(
            "the clock of node {node} is {seconds} s {which} the others'"
        ));
    }
    let groups = &status.groups;
    if groups.unavailable > 0 {
        problems.push(format!(
            "{} placement groups cannot be read at all",
            groups.unavailable
        ));
    }
    if groups.degraded + groups.backfilling > 0 {
        problems.push(format!(
            "{} placement groups lack a member, {} are being filled",
            groups.degraded, groups.backfilling
        ));
    }
    if let Some(below) = status.chunks_below_target.filter(|below| *below > 0) {
        problems.push(format!("{below} chunks have too few good copies"));
    }
    if let Some(lost) = status.chunks_lost.filter(|lost| *lost > 0) {
        problems.push(format!(
            "of {lost} chunks no disk that answers has a copy (granary admin fsck names them)"
        ));
    }
    if let Some(narrow) = status.chunks_in_narrow_zones.filter(|narrow| *narrow > 0) {
        let owners = status.owners_in_narrow_zones.iter();
        let owners: Vec<String> = owners
            .map(|owner| match owner.as_str() {
                "backup" => "the metadata's backup".to_owned(),
                bucket => format!("bucket {bucket}"),
            })
            .collect();
        let whose = match owners.as_slice() {
            [] => String::new(),
            owners => format!(" ({})", owners.join(", ")),
        };
        problems.push(format!(
            "{narrow} chunks of LRS{whose} are in zones without the disks for more copies of them: add nodes there"
        ));
    }
    let unavailable = leaderless > 0 || groups.unavailable > 0 || nodes.is_empty();
    status.health = match (unavailable, problems.is_empty()) {
        (true, _) => "unavailable",
        (false, false) => "degraded",
        (false, true) => "ok",
    }
    .to_owned();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u64, node: u64, path: &str, state: &str) -> DiskStatus {
        DiskStatus {
            id,
            node,
            path: path.to_owned(),
            state: state.to_owned(),
            ..DiskStatus::default()
        }
    }

    #[test]
    fn a_lost_disk_is_replaced_when_another_has_its_place_and_no_group_needs_it() {
        for (successor, needed, expected) in [
            (disk(2, 1, "/a", "up"), false, "replaced"),
            (disk(2, 1, "/a", "full"), false, "replaced"),
            (disk(2, 1, "/a", "up"), true, "missing"),
            (disk(2, 1, "/a", "failed"), false, "missing"),
            (disk(2, 1, "/b", "up"), false, "missing"),
            (disk(2, 2, "/a", "up"), false, "missing"),
        ] {
            let mut disks = [disk(1, 1, "/a", "missing"), successor];
            mark_replaced(&mut disks, |disk| needed && disk == DiskId(1));
            assert_eq!(disks[0].state, expected, "beside {:?}", disks[1]);
            assert_ne!(disks[1].state, "replaced");
        }
    }

    #[test]
    fn it_is_said_when_nobody_can_take_a_voters_place() {
        let node = |id, state: &str, role: &str| NodeStatus {
            id,
            state: state.to_owned(),
            roles: vec![role.to_owned()],
            ..NodeStatus::default()
        };
        let shard = |id| ShardStatus {
            id,
            leader: Some(1),
            voters: vec![1, 2, 3],
            ..ShardStatus::default()
        };
        let left = [
            node(1, "up", "meta"),
            node(2, "up", "meta"),
            node(3, "removed", "meta"),
        ];
        for (more, expected) in [
            (
                node(4, "up", "storage"),
                "2 shards have a voter that was given up, and no other",
            ),
            (
                node(4, "removed", "meta"),
                "2 shards have a voter that was given up, and no other",
            ),
            (
                node(4, "up", "meta"),
                "shard 0 still has a voter that was removed",
            ),
            (node(4, "down", "meta"), "node 4 () does not answer"),
        ] {
            let mut status = ClusterStatus {
                shards: vec![shard(0), shard(1)],
                nodes: left.iter().cloned().chain([more]).collect(),
                ..ClusterStatus::default()
            };
            judge(&mut status, &[NodeId(1)]);
            let first = status.problems.first().map_or("", String::as_str);
            assert!(first.starts_with(expected), "{:?}", status.problems);
        }
    }

    #[test]
    fn a_shard_with_fewer_voters_than_it_should_have_is_a_problem() {
        let shard = |id, leader, voters: &[u64]| ShardStatus {
            id,
            leader,
            voters: voters.to_vec(),
            ..ShardStatus::default()
        };
        let three = || shard(0, Some(1), &[1, 2, 3]);
        for (shards, wanted, expected) in [
            (vec![three()], Some(3), None),
            (vec![shard(0, Some(1), &[1])], Some(1), None),
            (vec![shard(0, Some(1), &[1])], None, None),
            (
                vec![three(), shard(7, Some(1), &[1])],
                Some(3),
                Some("shard 7 has 1 of 3 voters"),
            ),
            (
                vec![shard(1, Some(1), &[1]), shard(7, Some(2), &[2])],
                Some(3),
                Some("2 shards have 1 of 3 voters"),
            ),
            // Somebody asked for five once.
            (vec![shard(0, Some(1), &[1, 2, 3, 4, 5])], Some(3), None),
        ] {
            let voter = |id| NodeStatus {
                id,
                state: "up".to_owned(),
                ..NodeStatus::default()
            };
            let mut status = ClusterStatus {
                nodes: (1..=5).map(voter).collect(),
                shards,
                voters_per_shard: wanted,
                ..ClusterStatus::default()
            };
            judge(&mut status, &[NodeId(1)]);
            let found = status.problems.first().map(String::as_str);
            assert_eq!(found, expected);
            let health = expected.map_or("ok", |_| "degraded");
            assert_eq!(status.health, health);
        }
    }

    #[test]
    fn whose_chunks_have_too_few_disks_is_said() {
        for (owners, expected) in [
            (&[][..], "7 chunks of LRS are in zones"),
            (
                &["logs", "backup"],
                "7 chunks of LRS (bucket logs, the metadata's backup) are in zones",
            ),
        ] {
            let mut status = ClusterStatus {
                chunks_in_narrow_zones: Some(7),
                owners_in_narrow_zones: owners.iter().map(|&owner| owner.to_owned()).collect(),
                ..ClusterStatus::default()
            };
            judge(&mut status, &[NodeId(1)]);
            assert!(
                status.problems[0].starts_with(expected),
                "{:?}",
                status.problems
            );
        }
    }

    #[test]
    fn what_is_away_says_when_it_is_given_up() {
        let node = NodeStatus {
            id: 4,
            address: "n4:1".to_owned(),
            state: "down".to_owned(),
            given_up_in_secs: Some(830),
            ..NodeStatus::default()
        };
        let away = |id, node, state: &str| DiskStatus {
            given_up_in_secs: Some(20),
            ..disk(id, node, "/a", state)
        };
        let mut status = ClusterStatus {
            nodes: vec![node],
            disks: vec![away(5, 4, "unknown"), away(6, 2, "missing")],
            ..ClusterStatus::default()
        };
        judge(&mut status, &[NodeId(1)]);
        assert_eq!(
            status.problems,
            [
                "node 4 (n4:1) does not answer: its disks are given up in 14 min unless it returns",
                "disk 5 on node 4 (/a): unknown",
                "disk 6 on node 2 (/a): missing, given up in 20 s unless it returns",
            ]
        );
    }

    #[test]
    fn only_disks_in_service_are_a_problem() {
        for (state, health) in [
            ("up", "ok"),
            ("replaced", "ok"),
            ("removed", "ok"),
            ("missing", "degraded"),
            ("failed", "degraded"),
        ] {
            let mut status = ClusterStatus {
                disks: vec![disk(1, 1, "/a", state)],
                ..ClusterStatus::default()
            };
            judge(&mut status, &[NodeId(1)]);
            assert_eq!(status.health, health, "a disk that is {state}");
        }
    }
}
