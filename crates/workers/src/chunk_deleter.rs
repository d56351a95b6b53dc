//! Deletes named chunks on every member of their groups, and forgets their tombstones once no
//! member can bring them back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use granary_datapath::ClusterView;
use granary_runtime::within;
use granary_types::{ChunkId, DiskId};

/// Chunks named in one call to a disk.
const CHUNKS_PER_CALL: usize = 1024;
/// Disks asked at once.
const DISKS_AT_ONCE: usize = 16;
/// Time one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug)]
enum Action {
    Delete,
    Forget,
}

/// Deletes chunks by id. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ChunkDeleter {
    view: ClusterView,
}

impl ChunkDeleter {
    pub(crate) fn new(view: ClusterView) -> Self {
        Self { view }
    }

    /// Deletes chunks; returns those that every member in service has confirmed.
    ///
    /// A member that was taken out of service need not confirm: it comes back only through a
    /// comparison with the others, whose tombstones are kept for it.
    pub(crate) async fn delete(&self, chunks: &[ChunkId]) -> HashSet<ChunkId> {
        let map = self.view.map();
        let mut plan: HashMap<DiskId, Vec<ChunkId>> = HashMap::new();
        let mut members: HashMap<ChunkId, Vec<DiskId>> = HashMap::new();
        let mut forgettable = HashSet::new();
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
                forgettable.insert(chunk);
            }
            for &disk in &serving {
                plan.entry(disk).or_default().push(chunk);
            }
            members.insert(chunk, serving);
        }
        let failed = self.ask(Action::Delete, plan).await;
        members.retain(|_, disks| !disks.iter().any(|disk| failed.contains(disk)));
        let confirmed: HashSet<_> = members.keys().copied().collect();
        self.forget(members, &forgettable).await;
        confirmed
    }

    /// Drops the tombstones of chunks on one disk; false when it did not do all of it.
    pub(crate) async fn forget_on(&self, disk: DiskId, chunks: &[ChunkId]) -> bool {
        self.ask_disk(Action::Forget, disk, chunks).await
    }

    /// Deletes chunks on one disk and drops the tombstones at once; false when it did not do all
    /// of it. Only for copies on a disk that is no member of their group.
    pub(crate) async fn drop_on(&self, disk: DiskId, chunks: &[ChunkId]) -> bool {
        self.ask_disk(Action::Delete, disk, chunks).await && self.forget_on(disk, chunks).await
    }

    /// Drops the tombstones of chunks that every member of the group has confirmed. Best effort:
    /// the comparison of members finds what is left.
    async fn forget(&self, members: HashMap<ChunkId, Vec<DiskId>>, forgettable: &HashSet<ChunkId>) {
        let mut plan: HashMap<DiskId, Vec<ChunkId>> = HashMap::new();
        for (chunk, disks) in members {
            if forgettable.contains(&chunk) {
                for disk in disks {
                    plan.entry(disk).or_default().push(chunk);
                }
            }
        }
        self.ask(Action::Forget, plan).await;
    }

    /// Asks disks in parallel; returns those that did not do all of it.
    async fn ask(&self, action: Action, plan: HashMap<DiskId, Vec<ChunkId>>) -> HashSet<DiskId> {
        stream::iter(plan)
            .map(|(disk, chunks)| async move {
                let done = self.ask_disk(action, disk, &chunks).await;
                (!done).then_some(disk)
            })
            .buffer_unordered(DISKS_AT_ONCE)
            .filter_map(|failed| async move { failed })
            .collect()
            .await
    }

    async fn ask_disk(&self, action: Action, disk: DiskId, chunks: &[ChunkId]) -> bool {
        let Some(node) = self.view.node_of(disk) else {
            return false;
        };
        for batch in chunks.chunks(CHUNKS_PER_CALL) {
            let call = async {
                match action {
                    Action::Delete => node.delete(disk, batch.to_vec()).await,
                    Action::Forget => node.forget(disk, batch.to_vec()).await,
                }
            };
            match within(CALL_TIMEOUT, call).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%disk, %error, ?action, "disk did not take part");
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }
}
