//! Pools and groups that should exist.

use std::iter;
use std::time::Duration;

use granary_blob_api::DiskHealth;
use granary_datapath::ClusterMap;
use granary_meta_api::pb;
use granary_placement::{FailureDomain, Rule, Topology, groups_wanted, plan_groups, rule_for};
use granary_types::{DiskId, Redundancy};

use super::PlacementKeeper;
use crate::WorkerError;

/// Groups created with one command.
const GROUPS_PER_COMMAND: usize = 500;
/// Groups created per tick and pool.
const GROUPS_PER_TICK: usize = 5000;
/// A disk that does not answer for less than this is no reason for other groups, which would stay for
/// good: it restarts. Writes go to whole groups meanwhile, or to the quorum of one.
const AWAY_MAX: Duration = Duration::from_secs(5 * 60);

/// A pool that placement wants.
struct Wanted {
    redundancy: Redundancy,
    /// Empty for pools that span zones.
    zone: String,
    rule: Rule,
}

impl Wanted {
    fn name(&self) -> String {
        match self.redundancy {
            Redundancy::Lrs => format!("LRS@{}/{}", self.zone, self.rule.copies),
            Redundancy::Zrs => format!("ZRS/{}", self.rule.copies),
        }
    }
}

/// The pools a topology can serve.
fn wanted_pools(topology: &Topology) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for zone in topology.zones() {
        let part = topology.in_zone(zone);
        if let Some(rule) = rule_for(Redundancy::Lrs, &part) {
            wanted.push(Wanted {
                redundancy: Redundancy::Lrs,
                zone: zone.to_owned(),
                rule,
            });
        }
    }
    if let Some(rule) = rule_for(Redundancy::Zrs, topology) {
        wanted.push(Wanted {
            redundancy: Redundancy::Zrs,
            zone: String::new(),
            rule,
        });
    }
    wanted
}

/// What separates the members of a pool's groups in this topology.
pub(super) fn rule_of(pool: &pb::state::Pool, topology: &Topology) -> Rule {
    let redundancy = Redundancy::from_number(pool.redundancy);
    let domain = redundancy
        .and_then(|redundancy| rule_for(redundancy, topology))
        .map_or(FailureDomain::Disk, |rule| rule.domain);
    Rule {
        copies: pool.copies as usize,
        domain,
    }
}

/// The copies that a pool's class can have in this topology.
fn copies_possible(pool: &pb::state::Pool, topology: &Topology) -> usize {
    Redundancy::from_number(pool.redundancy)
        .and_then(|redundancy| rule_for(redundancy, topology))
        .map_or(0, |rule| rule.copies)
}

/// The part of the topology that serves a pool.
pub(super) fn topology_of(pool: &pb::state::Pool, topology: &Topology) -> Topology {
    if pool.zone.is_empty() && pool.redundancy == Redundancy::Zrs.number() {
        topology.clone()
    } else {
        topology.in_zone(&pool.zone)
    }
}

/// A name like this one that no pool has: pools are told apart by their names.
fn free_name(map: &ClusterMap, name: &str) -> String {
    let is_free = |name: &String| map.pools().iter().all(|pool| pool.name != *name);
    let others = (2u32..).map(|n| format!("{name}#{n}"));
    let mut names = iter::once(name.to_owned()).chain(others);
    names.find(is_free).unwrap_or_else(|| name.to_owned())
}

impl PlacementKeeper {
    /// The disks as placement sees them. Only a disk that takes chunks gets a new place in a group:
    /// a full one could not be filled.
    pub(super) fn topology(&self) -> Topology {
        self.view.map().topology(|disk| self.view.is_writable(disk))
    }

    /// Creates the pools that are wanted and do not exist. A pool with more copies than wanted
    /// stays the best one: a lost disk lowers the redundancy there is, never the target. One that moved
    /// to another zone with its groups keeps its name.
    pub(super) async fn create_pools(&self) -> Result<bool, WorkerError> {
        let (map, topology) = (self.view.map(), self.topology());
        let mut created = false;
        for wanted in wanted_pools(&topology) {
            let serves = |pool: &&pb::state::Pool| {
                pool.redundancy == wanted.redundancy.number()
                    && pool.zone == wanted.zone
                    && pool.copies as usize >= wanted.rule.copies
            };
            if map.pools().iter().any(|pool| serves(&pool)) {
                continue;
            }
            let pool = pb::state::Pool {
                id: 0,
                name: free_name(&map, &wanted.name()),
                redundancy: wanted.redundancy.number(),
                copies: wanted.rule.copies as u32,
                zone: wanted.zone.clone(),
            };
            let answer = self
                .meta
                .propose(pb::CreatePool { pool: Some(pool) })
                .await?;
            answer.map_err(|no| WorkerError::refused("a pool", no))?;
            tracing::info!(pool = wanted.name(), "pool created");
            created = true;
        }
        if created {
            self.view.refresh_map().await?;
        }
        Ok(created)
    }

    /// Creates open groups where a pool has too few. Only the best pool of a class and zone gets
    /// new ones, of those that have groups or could have some now; groups with a member that is full,
    /// or lost for more than a while, do not count.
    pub(super) async fn create_groups(&self) -> Result<bool, WorkerError> {
        let (map, topology) = (self.view.map(), self.topology());
        let mut created = false;
        for pool in map.pools() {
            let part = topology_of(pool, &topology);
            let possible = copies_possible(pool, &part);
            let best = map
                .pools()
                .iter()
                .filter(|other| other.redundancy == pool.redundancy && other.zone == pool.zone)
                .filter(|other| map.has_groups(other) || other.copies as usize <= possible)
                .all(|other| other.copies <= pool.copies);
            if !best {
                continue;
            }
            let rule = rule_of(pool, &part);
            let open = map.open_groups(pool.id);
            let serves = |disk| part.find(disk).is_some() && self.takes_chunks_soon(disk);
            let whole = open
                .iter()
                .filter(|group| group.iter().all(|&disk| serves(disk)))
                .count();
            let lacking = groups_wanted(&part, rule).saturating_sub(whole);
            if lacking == 0 {
                continue;
            }
            let seed = self.runtime.entropy().next_u64();
            let planned = plan_groups(&part, rule, &open, lacking.min(GROUPS_PER_TICK), seed);
            for groups in planned.chunks(GROUPS_PER_COMMAND) {
                self.create(pool.id, groups).await?;
                created = true;
            }
        }
        Ok(created)
    }

    /// True when a disk takes chunks, or has done until a while ago and may only have restarted.
    fn takes_chunks_soon(&self, disk: DiskId) -> bool {
        let health = self.view.status(disk).map(|status| status.health);
        let now = self.runtime.monotonic();
        let since = self.away.get(&disk).map_or(now, |away| away.0);
        let takes = match health {
            Some(health) => health == DiskHealth::Healthy,
            None => now.saturating_sub(since) < AWAY_MAX,
        };
        takes && self.view.map().is_in(disk)
    }

    async fn create(&self, pool: u32, groups: &[Vec<DiskId>]) -> Result<(), WorkerError> {
        let member = |disk: &DiskId| pb::state::PgMember {
            disk: disk.0,
            complete: true,
        };
        let groups = groups.iter().map(|disks| pb::state::PlacementGroup {
            pool,
            members: disks.iter().map(member).collect(),
            ..Default::default()
        });
        let command = pb::CreatePgs {
            pool,
            groups: groups.collect(),
        };
        let answer = self.meta.propose(command).await?;
        answer.map_err(|no| WorkerError::refused("placement groups", no))?;
        Ok(())
    }
}
