//! What a process knows of the cluster: the root's map, how the disks do, and which disks have
//! just let it down. A cache: being late costs a retry, never bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream;
use granary_blob_api::{BlobError, BlobNode, DiskHealth, DiskStatus};
use granary_meta_api::{Meta, MetaError, pb};
use granary_placement::{GroupChooser, acks_needed};
use granary_runtime::{Runtime, within};
use granary_types::{ChunkId, DiskId, NodeId, PgId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::map::{ClusterMap, Group};
use crate::suspects::Suspects;

/// How long a node may take to say how its disks do.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// Choices made anew because another write was quicker to try the same disk.
const CLAIMS_MAX: usize = 4;
/// Nodes asked at once.
const STATUS_CALLS: usize = 32;

/// How long a map is good for writing to after the root has last said that it holds. A disk whose
/// place went to another one is not told, and takes what an old map sends it; nobody reads that.
pub const MAP_AGE_MAX: Duration = Duration::from_secs(60);

/// Finds the client of a storage node.
pub trait NodeDirectory: Send + Sync + 'static {
    /// The node's client; `None` when the node is not known here (yet).
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>>;
}

/// The cached cluster map and the disks' health. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct ClusterView {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    meta: Meta,
    nodes: Arc<dyn NodeDirectory>,
    /// What is known now; replaced whole.
    known: ArcSwap<Known>,
    /// Since when (monotonic) at the earliest the map may be out of date: when the root was asked
    /// for the answer that came last. Set after the map.
    confirmed: Mutex<Option<Duration>>,
    /// Disks to avoid for a while, because a request to them has just failed.
    suspects: Mutex<Suspects>,
    /// Disks to read last for a while, because others were quicker although they were asked later.
    slow: Mutex<Suspects>,
    map_turn: Turn,
    health_turn: Turn,
}

/// Lets one caller at a time look something up; those who waited meanwhile share what the next
/// one finds.
struct Turn {
    free: Semaphore,
    done: AtomicU64,
}

impl Turn {
    fn new() -> Self {
        Self {
            free: Semaphore::new(1),
            done: AtomicU64::new(0),
        }
    }

    /// Runs `look`, unless a look-up that began after this call has ended meanwhile.
    async fn take<T>(&self, look: impl Future<Output = T>) -> Option<T> {
        let before = self.done.load(Ordering::Acquire);
        let _turn = self.free.acquire().await.ok()?;
        // The first one to end may have begun before this call, the second one cannot have.
        if self.done.load(Ordering::Acquire) >= before + 2 {
            return None;
        }
        let found = look.await;
        self.done.fetch_add(1, Ordering::AcqRel);
        Some(found)
    }
}

#[derive(Clone, Default)]
struct Known {
    map: Arc<ClusterMap>,
    health: Arc<HashMap<DiskId, DiskStatus>>,
    /// The nodes that said how their disks do when they were asked last.
    answered: Arc<HashSet<NodeId>>,
    /// Disks that their nodes are opening.
    opening: Arc<HashSet<DiskId>>,
    /// True once nodes were asked: from then on a disk without status is unreachable.
    asked: bool,
    /// Per pool: the open groups, weighted by the free space of their fullest disk.
    choosers: Arc<HashMap<u32, GroupChooser>>,
}

/// A group chosen for a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) group: Group,
    /// Members to write to.
    pub(crate) disks: Vec<DiskId>,
    /// Copies the chunk should have: those of the best pool, also in a group of another one that is
    /// still to get its members.
    pub(crate) copies: usize,
}

impl Choice {
    /// True when every member can be written.
    pub(crate) fn is_whole(&self) -> bool {
        self.disks.len() >= self.copies
    }

    /// True when enough members can be written.
    fn has_quorum(&self) -> bool {
        acks_needed(self.copies, self.disks.len()).is_some()
    }
}

impl ClusterView {
    /// An empty view; call [`ClusterView::refresh`] or [`ClusterView::start_refreshing`].
    pub fn new(runtime: Runtime, meta: Meta, nodes: Arc<dyn NodeDirectory>) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                meta,
                nodes,
                known: ArcSwap::from_pointee(Known::default()),
                confirmed: Mutex::default(),
                suspects: Mutex::default(),
                slow: Mutex::default(),
                map_turn: Turn::new(),
                health_turn: Turn::new(),
            }),
        }
    }

    /// Reads the map from the root and the health of every disk from its node.
    ///
    /// # Errors
    /// The root gave no answer. A node that gives none counts as unhealthy, which is no error.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        self.refresh_map().await?;
        self.refresh_health().await;
        Ok(())
    }

    /// Reads the map from the root. Callers that arrive while it is being read share the answer
    /// of the next reading.
    ///
    /// # Errors
    /// The root gave no answer.
    pub async fn refresh_map(&self) -> Result<(), MetaError> {
        let found = self.shared.map_turn.take(self.read_map()).await;
        found.unwrap_or(Ok(()))
    }

    async fn read_map(&self) -> Result<(), MetaError> {
        let shared = &self.shared;
        let known_epoch = shared.known.load().map.epoch();
        let asked_at = shared.runtime.monotonic();
        let answer = shared.meta.query(pb::GetClusterMap { known_epoch }).await?;
        if !answer.unchanged {
            let map = Arc::new(ClusterMap::from_wire(answer));
            self.learn(|known| Known {
                map: Arc::clone(&map),
                ..known.clone()
            });
        }
        *shared.confirmed.lock() = Some(asked_at);
        Ok(())
    }

    /// True when the root has said lately that the map holds.
    pub(crate) fn is_confirmed(&self) -> bool {
        let now = self.shared.runtime.monotonic();
        let confirmed = *self.shared.confirmed.lock();
        confirmed.is_some_and(|at| now.saturating_sub(at) < MAP_AGE_MAX)
    }

    /// How many of these disks hold a copy that counts now: members of the group in service that
    /// are to stay. None does as long as nobody knows whether they still are.
    pub(crate) fn count_copies(&self, group: PgId, disks: &[DiskId]) -> usize {
        // Before the map is looked at: it is at least as new as that.
        if !self.is_confirmed() {
            return 0;
        }
        let map = self.map();
        let counts = |disk: &DiskId| disks.contains(disk) && map.is_in(*disk);
        let group = map.group(group);
        group.map_or(0, |group| group.staying().filter(counts).count())
    }

    /// Asks every node how its disks do.
    pub async fn refresh_health(&self) {
        self.shared.health_turn.take(self.ask_nodes()).await;
    }

    async fn ask_nodes(&self) {
        let map = self.map();
        let asked = stream::iter(map.nodes().collect::<Vec<_>>()).map(|id| async move {
            let node = self.shared.nodes.node(id)?;
            match within(STATUS_TIMEOUT, node.disks()).await {
                Ok(Ok(disks)) => Some((id, disks)),
                Ok(Err(error)) => {
                    tracing::debug!(node = %id, %error, "node does not say how its disks do");
                    None
                }
                Err(_) => None,
            }
        });
        let answers: Vec<_> = asked.buffer_unordered(STATUS_CALLS).collect().await;
        let (mut health, mut answered) = (HashMap::new(), HashSet::new());
        let mut opening = HashSet::new();
        for (node, disks) in answers.into_iter().flatten() {
            answered.insert(node);
            for disk in disks {
                if disk.health == DiskHealth::Opening {
                    opening.insert(disk.id);
                } else {
                    health.insert(disk.id, disk);
                }
            }
        }
        let (health, answered) = (Arc::new(health), Arc::new(answered));
        let opening = Arc::new(opening);
        self.learn(|known| Known {
            health: Arc::clone(&health),
            answered: Arc::clone(&answered),
            opening: Arc::clone(&opening),
            asked: true,
            ..known.clone()
        });
    }

    /// Refreshes every `interval` until the runtime shuts down.
    pub fn start_refreshing(&self, interval: Duration) {
        // Each for itself: disks fail while the root has no leader, too, most of all when both are
        // in the zone that is gone.
        let view = self.clone();
        self.repeat(interval, move || {
            let view = view.clone();
            async move {
                if let Err(error) = view.refresh_map().await {
                    tracing::debug!(%error, "cluster map not refreshed");
                }
            }
        });
        let view = self.clone();
        self.repeat(interval, move || {
            let view = view.clone();
            async move {
                // Before the first map there is nobody to ask.
                if view.map().epoch() > 0 {
                    view.refresh_health().await;
                }
            }
        });
    }

    fn repeat<F, Fut>(&self, interval: Duration, round: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let runtime = self.shared.runtime.clone();
        self.shared.runtime.spawn(async move {
            loop {
                let (round, pause) = (round(), runtime.sleep(interval));
                let round_and_pause = async {
                    round.await;
                    pause.await;
                };
                // A round, too, ends here: it may be asking a root that has stopped before.
                tokio::select! {
                    () = round_and_pause => {}
                    () = runtime.shutdown().cancelled() => return,
                }
            }
        });
    }

    /// The runtime whose clock it goes by.
    pub fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    /// The map as it is known now.
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.shared.known.load().map)
    }

    /// What a disk's node said of it last; `None` when it said nothing, or only that it is being
    /// opened.
    pub fn status(&self, disk: DiskId) -> Option<DiskStatus> {
        self.shared.known.load().health.get(&disk).cloned()
    }

    /// True when the disk's node answers and does not have the disk: it was replaced, or its
    /// directory is no longer given. A node that does not answer says nothing about its disks.
    pub fn is_missing(&self, disk: DiskId) -> bool {
        let known = self.shared.known.load();
        let node = known.map.node_of(disk);
        let named = known.health.contains_key(&disk) || known.opening.contains(&disk);
        !named && node.is_some_and(|node| known.answered.contains(&node))
    }

    /// True when the disk's node gave no answer when it was asked last.
    pub fn is_silent(&self, disk: DiskId) -> bool {
        let known = self.shared.known.load();
        let node = known.map.node_of(disk);
        known.asked && !node.is_some_and(|node| known.answered.contains(&node))
    }

    /// True when the disk's node is opening it: it can be asked nothing yet, and nobody knows how
    /// long that takes.
    pub fn is_opening(&self, disk: DiskId) -> bool {
        self.shared.known.load().opening.contains(&disk)
    }

    /// The client of the node a disk sits in.
    pub fn node_of(&self, disk: DiskId) -> Option<Arc<dyn BlobNode>> {
        let node = self.shared.known.load().map.node_of(disk)?;
        self.shared.nodes.node(node)
    }

    /// True when the disk takes chunks, as far as its node and the map say.
    pub fn is_writable(&self, disk: DiskId) -> bool {
        self.shared.known.load().is_writable(disk)
    }

    /// True when the disk can be read, as far as its node and the map say.
    pub fn is_readable(&self, disk: DiskId) -> bool {
        self.shared.known.load().is_readable(disk)
    }

    /// What a disk answered to a request: keeps later ones away from one that cannot serve them.
    pub(crate) fn note_error(&self, disk: DiskId, error: &BlobError) {
        let now = self.shared.runtime.monotonic();
        match error {
            BlobError::DiskFull(_) | BlobError::DiskFailed(_) => {
                self.shared.suspects.lock().is_out(disk, now);
            }
            BlobError::Unreachable(_) => self.shared.suspects.lock().timed_out(disk, now),
            _ => {}
        }
    }

    /// A write to the disk became durable.
    pub(crate) fn note_written(&self, disk: DiskId) {
        self.shared.suspects.lock().answered(disk);
    }

    /// Another disk was quicker with a read although it was asked later.
    pub(crate) fn note_slow_read(&self, disk: DiskId) {
        let now = self.shared.runtime.monotonic();
        self.shared.slow.lock().timed_out(disk, now);
    }

    /// A read was answered before another disk had to be asked.
    pub(crate) fn note_read(&self, disk: DiskId) {
        self.shared.slow.lock().answered(disk);
    }

    /// True when a write should not wait for the disk now.
    pub(crate) fn is_avoided(&self, disk: DiskId) -> bool {
        let now = self.shared.runtime.monotonic();
        self.shared.suspects.lock().avoided(now).contains(&disk)
    }

    /// A group for a new chunk: whole if there is one in any of the pools, else one that can have
    /// the write quorum, else one that can have it if suspects are tried again. All by the copies
    /// of the best pool that has groups. Groups in `avoid` and disks in `failed` are left out.
    pub(crate) fn choose(
        &self,
        pools: &[u32],
        seed: u64,
        avoid: &[PgId],
        failed: &[DiskId],
    ) -> Option<Choice> {
        let now = self.shared.runtime.monotonic();
        let suspects = &self.shared.suspects;
        let known = self.shared.known.load();
        for _ in 0..CLAIMS_MAX {
            let mut avoided = suspects.lock().avoided(now);
            avoided.extend(failed);
            let choice = known
                .choose(pools, seed, avoid, &avoided, Choice::is_whole)
                .or_else(|| known.choose(pools, seed, avoid, &avoided, Choice::has_quorum));
            let Some(choice) = choice else { break };
            if suspects.lock().claim(&choice.disks, now) {
                return Some(choice);
            }
        }
        let mut hopeless = suspects.lock().hopeless(now);
        hopeless.extend(failed);
        let choice = known.choose(pools, seed, avoid, &hopeless, Choice::has_quorum)?;
        suspects.lock().probe(&choice.disks, now);
        Some(choice)
    }

    /// True when there is a group outside `avoid` all of whose disks can be written now, those in
    /// `failed` left out.
    pub(crate) fn has_whole_group(&self, pools: &[u32], avoid: &[PgId], failed: &[DiskId]) -> bool {
        let now = self.shared.runtime.monotonic();
        let mut avoided = self.shared.suspects.lock().avoided(now);
        avoided.extend(failed);
        let known = self.shared.known.load();
        known
            .choose(pools, 0, avoid, &avoided, Choice::is_whole)
            .is_some()
    }

    /// True when some group could take a chunk if no disk were under suspicion.
    pub(crate) fn could_choose(&self, pools: &[u32]) -> bool {
        let known = self.shared.known.load();
        known
            .choose(pools, 0, &[], &[], Choice::has_quorum)
            .is_some()
    }

    /// The disks of a chunk in the order in which they should be asked: complete members first,
    /// disks that answer before those that do not, quick before slow, near before far, rotated by
    /// chunk. The caller asks the first one: of those that were slow, one read at a time tries
    /// whether they still are.
    pub(crate) fn read_order(&self, chunk: ChunkId, zone: &str) -> Vec<DiskId> {
        let now = self.shared.runtime.monotonic();
        let (known, suspects) = (
            self.shared.known.load(),
            self.shared.suspects.lock().resting(now),
        );
        let Some(group) = known.map.group(chunk.pg()) else {
            return Vec::new();
        };
        let mut members = group.members.clone();
        let turn = chunk.0 as usize % members.len().max(1);
        members.rotate_left(turn);
        let mut known_slow = self.shared.slow.lock();
        let avoided = known_slow.avoided(now);
        members.sort_by_key(|member| {
            let doubtful = !known.is_readable(member.disk) || suspects.contains(&member.disk);
            let far = known.map.zone_of(member.disk) != zone;
            let last = !member.complete || group.leaving == Some(member.disk);
            (doubtful, last, avoided.contains(&member.disk), far)
        });
        if let Some(first) = members.first() {
            known_slow.probe(&[first.disk], now);
        }
        drop(known_slow);
        members.iter().map(|member| member.disk).collect()
    }

    fn learn(&self, change: impl Fn(&Known) -> Known) {
        self.shared.known.rcu(|known| {
            let mut known = change(known);
            known.choosers = Arc::new(choosers(&known.map, &known.health));
            known
        });
    }
}

impl Known {
    fn is_writable(&self, disk: DiskId) -> bool {
        let healthy = match self.health.get(&disk) {
            Some(status) => status.health == DiskHealth::Healthy,
            None => !self.asked,
        };
        healthy && self.map.is_in(disk)
    }

    fn is_readable(&self, disk: DiskId) -> bool {
        match self.health.get(&disk) {
            Some(status) => status.health != DiskHealth::Failed,
            None => !self.asked,
        }
    }

    fn choose(
        &self,
        pools: &[u32],
        seed: u64,
        avoid: &[PgId],
        suspects: &[DiskId],
        accept: impl Fn(&Choice) -> bool,
    ) -> Option<Choice> {
        let copies = pools.iter().filter_map(|pool| self.copies(*pool)).max()?;
        pools.iter().find_map(|pool| {
            let chooser = self.choosers.get(pool)?;
            let mut chosen = None;
            chooser.choose(seed, |id| {
                chosen = self
                    .choice(id, copies, avoid, suspects)
                    .filter(|choice| accept(choice));
                chosen.is_some()
            })?;
            chosen
        })
    }

    /// Copies of a pool's chunks. Nothing was promised by a pool that has no group yet.
    fn copies(&self, pool: u32) -> Option<usize> {
        let mut pools = self.map.pools().iter();
        let pool = pools.find(|known| known.id == pool && self.map.has_groups(known))?;
        Some(pool.copies as usize)
    }

    fn choice(
        &self,
        id: PgId,
        copies: usize,
        avoid: &[PgId],
        suspects: &[DiskId],
    ) -> Option<Choice> {
        let group = self.map.group(id).filter(|group| !group.closed)?;
        if avoid.contains(&id) {
            return None;
        }
        let usable = |disk: &DiskId| self.is_writable(*disk) && !suspects.contains(disk);
        // A copy on a disk that is about to leave must not count, so none is made there.
        let disks = group.staying().filter(usable).collect();
        Some(Choice {
            group: group.clone(),
            disks,
            copies: copies.max(group.staying().count()),
        })
    }
}

/// Choosers per pool over the open groups.
fn choosers(map: &ClusterMap, health: &HashMap<DiskId, DiskStatus>) -> HashMap<u32, GroupChooser> {
    let free = |disk| health.get(&disk).map_or(1, |status| status.free_bytes);
    let mut candidates: HashMap<u32, Vec<(PgId, u64)>> = HashMap::new();
    for group in map.groups().filter(|group| !group.closed) {
        let weight = group.staying().map(free).min().unwrap_or(0);
        // Kilobytes, so that the sum over many large disks stays in range.
        candidates
            .entry(group.pool)
            .or_default()
            .push((group.id, weight / 1024 + 1));
    }
    candidates
        .into_iter()
        .map(|(pool, mut groups)| {
            groups.sort_unstable();
            (pool, GroupChooser::new(groups))
        })
        .collect()
}
