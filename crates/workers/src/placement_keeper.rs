//! Keeps pools and placement groups as placement wants them: creates them, opens them on their
//! disks, takes failed disks out, gives their places to others and fills those, and brings groups
//! of a cluster that was smaller once up to what it can do now.
//!
//! Invariants: a member counts as complete only after a whole comparison without a failed copy (what
//! no member can give is not waited for), in all of which it took part, and a complete one if there is
//! any; the comparison begins only after every member in service
//! has made the group's epoch durable, so no write of an older epoch can slip in behind it. A member
//! goes only as `growth` says.

mod backfill;
mod growth;
mod layout;
mod membership;
mod silence;
mod waits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use granary_datapath::{ClusterView, DataPath, Group, GroupMember, MAP_AGE_MAX};
use granary_meta_api::Meta;
use granary_runtime::Runtime;
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use crate::group_repair::GroupRepair;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};
pub use silence::Silence;
use waits::Deadlines;
pub use waits::{Away, Waits};

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeeperConfig {
    /// A disk whose node does not answer this long is taken out and replaced, in milliseconds.
    pub unreachable_out_ms: u64,
    /// A disk that its node answers without this long is taken out and replaced, in milliseconds:
    /// it was exchanged, or its directory is no longer given.
    pub missing_out_ms: u64,
    /// A disk that is out, or was given up for good, keeps its places this long, in milliseconds. Less
    /// than a gateway believes its map ([`MAP_AGE_MAX`]) is for tests.
    pub replace_after_ms: u64,
}

/// What clocks may differ in while a gateway believes its map.
const MAP_AGE_MARGIN: Duration = Duration::from_secs(5);

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            unreachable_out_ms: 15 * 60 * 1000,
            missing_out_ms: 30 * 1000,
            replace_after_ms: (MAP_AGE_MAX + MAP_AGE_MARGIN).as_millis() as u64,
        }
    }
}

/// The placement keeper.
pub struct PlacementKeeper {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    repair: GroupRepair,
    config: KeeperConfig,
    /// Since when (monotonic) a disk is away, and whether its node answers without it.
    away: HashMap<DiskId, (Duration, bool)>,
    /// So much is silent that nobody is given up for it.
    silence: Arc<Mutex<Option<Silence>>>,
    /// What is waited for.
    waits: Arc<Mutex<Deadlines>>,
    /// A disk would have been given up but for that.
    holds_back: bool,
    /// Since when (monotonic) at the latest the root says that a disk is not in service.
    out: HashMap<DiskId, Duration>,
    /// Epochs that disks have confirmed to this process.
    opened: HashMap<(PgId, DiskId), u64>,
    /// When (monotonic) disks were asked last which epochs they know.
    asked: HashMap<DiskId, Duration>,
    filling: Mutex<HashMap<PgId, Filling>>,
    /// Groups that could not be filled lately.
    resting: Mutex<HashMap<PgId, Resting>>,
}

/// A group that could not be filled is left alone for a while, the longer the more often.
#[derive(Clone, Copy, Debug)]
struct Resting {
    /// A group that changed since is another one.
    epoch: u64,
    /// Monotonic.
    until: Duration,
    pause: Duration,
}

/// The state of filling a group's new members. Lost with the process: it begins again.
#[derive(Clone, Debug, Default)]
struct Filling {
    epoch: u64,
    after: Option<ChunkId>,
    /// Chunks that a member lacks although another one has them.
    failed: u64,
    /// Chunks that are damaged somewhere, or that nobody can give.
    unsound: u64,
    /// A member did not take part in some of it.
    partial: bool,
    /// Members that were there all the time: only they are filled by it.
    members: Vec<DiskId>,
}

impl Filling {
    fn begin(group: &Group) -> Self {
        Self {
            epoch: group.epoch,
            members: group.disks().collect(),
            ..Self::default()
        }
    }

    /// Whether it is worth its end: somebody is filled by it, or all are compared.
    fn is_of_use(&self, group: &Group) -> bool {
        let gains = |member: &GroupMember| !member.complete && self.members.contains(&member.disk);
        let mut members = group.members.iter();
        members.clone().all(|member| member.complete) || members.any(gains)
    }
}

impl PlacementKeeper {
    /// A keeper that copies chunks through `path`.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        path: DataPath,
        metrics: WorkerMetrics,
        config: KeeperConfig,
    ) -> Self {
        Self {
            runtime,
            view: path.view().clone(),
            repair: GroupRepair::new(meta.clone(), path, metrics),
            meta,
            config,
            away: HashMap::new(),
            silence: Arc::default(),
            waits: Arc::default(),
            holds_back: false,
            out: HashMap::new(),
            opened: HashMap::new(),
            asked: HashMap::new(),
            filling: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    /// What is silent, while it is so much that nobody is given up for it, as the last tick saw it. A
    /// handle that stays valid while the worker runs.
    pub fn silence(&self) -> impl Fn() -> Option<Silence> + Send + Sync + 'static + use<> {
        let silence = Arc::clone(&self.silence);
        move || *silence.lock()
    }

    /// What the keeper waits for, as its last tick left it; `None` before the first one since it leads.
    /// A handle that stays valid while the worker runs.
    pub fn waits(&self) -> impl Fn() -> Option<Waits> + Send + Sync + 'static + use<> {
        let (waits, runtime) = (Arc::clone(&self.waits), self.runtime.clone());
        move || waits.lock().at(runtime.monotonic())
    }
}

impl Worker for PlacementKeeper {
    const NAME: &'static str = "placement-keeper";

    /// Another process may have led meanwhile: comparisons begin again.
    fn resume(&mut self, _cursor: &[u8]) {
        self.filling.get_mut().clear();
        self.resting.get_mut().clear();
        // Since when a disk is away, or out, is known only to who has looked all the time.
        self.away.clear();
        self.out.clear();
        *self.waits.lock() = Deadlines::default();
    }

    /// Others may reach what is silent here.
    fn gives_way(&self) -> bool {
        self.holds_back
    }

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        self.view.refresh().await?;
        let mut changed = self.update_disk_states().await?;
        changed |= self.create_pools().await?;
        changed |= self.create_groups().await?;
        changed |= self.replace_lost_members().await?;
        changed |= self.grow_groups().await?;
        if changed {
            self.view.refresh_map().await?;
        }
        self.note_waits();
        self.open_groups().await?;
        let more = self.fill_members().await?;
        Ok(if changed || more {
            Tick::More
        } else {
            Tick::Done
        })
    }
}
