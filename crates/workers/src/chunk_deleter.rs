//! Deletes named chunks on every member of their groups, and forgets their tombstones once no
//! member can bring them back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use granary_blob_api::{BlobError, ErrorKind};
use granary_datapath::ClusterView;
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, PgId};

/// Chunks named in one call to a disk.
const CHUNKS_PER_CALL: usize = 1024;
/// Disks asked at once.
const DISKS_AT_ONCE: usize = 16;
/// Calls to one disk at once: they share its syncs.
const CALLS_PER_DISK: usize = 8;
/// Time one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug)]
enum Action {
    Delete,
    Forget,
    Evict,
}

/// The chunks of one group, and the group's epoch by which its members were looked up.
#[derive(Clone, Debug, Default)]
struct Named {
    epoch: u64,
    chunks: Vec<ChunkId>,
}

/// What every disk is asked for.
type Plan = BTreeMap<DiskId, BTreeMap<PgId, Named>>;

fn add(plan: &mut Plan, disk: DiskId, epoch: u64, chunk: ChunkId) {
    let groups = plan.entry(disk).or_default();
    let named = groups.entry(chunk.pg()).or_default();
    named.epoch = epoch;
    named.chunks.push(chunk);
}

/// What disks said.
#[derive(Debug, Default)]
struct Answers {
    /// Where everything that was asked is durable.
    done: BTreeSet<(DiskId, PgId)>,
    /// A disk knew a newer epoch.
    stale: bool,
}

/// Deletes chunks by id. Cheap to clone.
#[derive(Clone)]
pub struct ChunkDeleter {
    view: ClusterView,
}

impl std::fmt::Debug for ChunkDeleter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkDeleter").finish_non_exhaustive()
    }
}

impl ChunkDeleter {
    /// A deleter that finds the members of groups by `view`.
    pub fn new(view: ClusterView) -> Self {
        Self { view }
    }

    /// Deletes chunks; returns those that every member in service has confirmed.
    ///
    /// The members are those of the map as it is known. Where they have changed, a disk knows it and
    /// refuses: those chunks are not confirmed, and the map is read again for the next attempt.
    ///
    /// A member that was taken out of service need not confirm: it comes back only through a
    /// comparison with the others, whose tombstones are kept for it.
    pub async fn delete(&self, chunks: &[ChunkId]) -> HashSet<ChunkId> {
        let map = self.view.map();
        let mut plan = Plan::new();
        let mut members: HashMap<ChunkId, Vec<DiskId>> = HashMap::new();
        let mut forgettable = HashMap::new();
        for &chunk in chunks {
            let Some(group) = map.group(chunk.pg()) else {
                continue;
            };
            let serving: Vec<_> = group.disks().filter(|&disk| map.is_in(disk)).collect();
            // Without a member in service nobody can confirm: the deletion waits for one. Nor can
            // an unreachable member: do not trouble the others every time.
            if serving.is_empty() || serving.iter().any(|&disk| !self.view.is_readable(disk)) {
                continue;
            }
            if serving.len() == group.members.len() {
                forgettable.insert(chunk, group.epoch);
            }
            for &disk in &serving {
                add(&mut plan, disk, group.epoch, chunk);
            }
            members.insert(chunk, serving);
        }
        let answers = self.ask(Action::Delete, plan).await;
        members.retain(|chunk, disks| {
            let pg = chunk.pg();
            disks.iter().all(|&disk| answers.done.contains(&(disk, pg)))
        });
        let confirmed: HashSet<_> = members.keys().copied().collect();
        self.forget(members, &forgettable).await;
        if answers.stale
            && let Err(error) = self.view.refresh_map().await
        {
            tracing::debug!(%error, "cluster map not refreshed");
        }
        confirmed
    }

    /// Drops the tombstones of chunks of a group on one disk; false when it did not do all of it.
    pub(crate) async fn forget_on(
        &self,
        disk: DiskId,
        (pg, epoch): (PgId, u64),
        chunks: &[ChunkId],
    ) -> bool {
        let chunks = chunks.to_vec();
        self.ask_one(Action::Forget, disk, pg, Named { epoch, chunks })
            .await
    }

    /// Removes copies and tombstones of a group from a disk that is no member of it at this epoch;
    /// false when it did not do all of it, because it knows a newer one for instance.
    pub(crate) async fn evict_on(
        &self,
        disk: DiskId,
        (pg, epoch): (PgId, u64),
        chunks: &[ChunkId],
    ) -> bool {
        let chunks = chunks.to_vec();
        self.ask_one(Action::Evict, disk, pg, Named { epoch, chunks })
            .await
    }

    async fn ask_one(&self, action: Action, disk: DiskId, pg: PgId, named: Named) -> bool {
        let plan = Plan::from([(disk, BTreeMap::from([(pg, named)]))]);
        self.ask(action, plan).await.done.contains(&(disk, pg))
    }

    /// Drops the tombstones of chunks that every member of the group has confirmed. Best effort:
    /// the comparison of members finds what is left.
    async fn forget(
        &self,
        members: HashMap<ChunkId, Vec<DiskId>>,
        forgettable: &HashMap<ChunkId, u64>,
    ) {
        let mut plan = Plan::new();
        for (chunk, disks) in members {
            if let Some(&epoch) = forgettable.get(&chunk) {
                for disk in disks {
                    add(&mut plan, disk, epoch, chunk);
                }
            }
        }
        self.ask(Action::Forget, plan).await;
    }

    /// Asks disks in parallel.
    async fn ask(&self, action: Action, plan: Plan) -> Answers {
        let asked = stream::iter(plan).map(|(disk, groups)| self.ask_disk(action, disk, groups));
        let answers: Vec<Answers> = asked.buffer_unordered(DISKS_AT_ONCE).collect().await;
        let mut all = Answers::default();
        for answered in answers {
            all.done.extend(answered.done);
            all.stale |= answered.stale;
        }
        all
    }

    /// Asks one disk. One that cannot be reached is not asked on: it must not keep the others
    /// waiting.
    async fn ask_disk(
        &self,
        action: Action,
        disk: DiskId,
        groups: BTreeMap<PgId, Named>,
    ) -> Answers {
        let mut answers = Answers::default();
        let mut calls = stream::iter(groups)
            .map(|(pg, named)| async move { (pg, self.call(action, disk, pg, named).await) })
            .buffer_unordered(CALLS_PER_DISK);
        while let Some((pg, outcome)) = calls.next().await {
            match outcome {
                Ok(()) => {
                    answers.done.insert((disk, pg));
                }
                Err(error) => {
                    tracing::debug!(%disk, %pg, %error, ?action, "disk did not take part");
                    answers.stale |= matches!(error, BlobError::StaleEpoch { .. });
                    if error.kind() == ErrorKind::Unavailable {
                        break;
                    }
                }
            }
        }
        answers
    }

    async fn call(
        &self,
        action: Action,
        disk: DiskId,
        pg: PgId,
        named: Named,
    ) -> Result<(), BlobError> {
        let unreachable = |what: &str| BlobError::Unreachable(what.to_owned());
        let Some(node) = self.view.node_of(disk) else {
            return Err(unreachable("its node is not known here"));
        };
        let Named { epoch, chunks } = named;
        for batch in chunks.chunks(CHUNKS_PER_CALL) {
            let batch = batch.to_vec();
            let call = match action {
                Action::Delete => node.delete(disk, pg, epoch, batch),
                Action::Forget => node.forget(disk, pg, epoch, batch),
                Action::Evict => node.evict(disk, pg, epoch, batch),
            };
            let answer = within(CALL_TIMEOUT, call).await;
            answer.map_err(|_| unreachable("no answer in time"))??;
        }
        Ok(())
    }
}
