//! Disks that answer and know groups that they do not serve: they were members once, or were given
//! up, and are there (again). What no member has may still be there.
//!
//! It must not decide anything: what such a disk holds may be old, and only the metadata says whether
//! a chunk should still exist.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use granary_datapath::ClusterView;
use granary_runtime::within;
use granary_types::{DiskId, PgId};
use parking_lot::Mutex;

/// Disks asked at once.
const DISKS_AT_ONCE: usize = 32;
/// Time a disk may take to say which groups it knows.
const GROUPS_TIMEOUT: Duration = Duration::from_secs(3);

/// Who knows which group, as it was when it was looked for. Memory: a number per pair.
#[derive(Debug, Default)]
pub(crate) struct Outsiders {
    knowing: HashMap<PgId, Vec<DiskId>>,
    /// Every disk that may ever answer was asked, and has answered.
    complete: bool,
    /// Gave no answer since: they are not waited for again.
    silent: Mutex<BTreeSet<DiskId>>,
}

impl Outsiders {
    /// Asks every disk that answers which groups it knows.
    pub(crate) async fn find(view: &ClusterView) -> Self {
        let map = view.map();
        let disks = map.disks().map(|disk| DiskId(disk.id));
        let answering: Vec<DiskId> = disks.filter(|&disk| view.is_readable(disk)).collect();
        let asked = answering.into_iter().map(|disk| {
            let node = view.node_of(disk);
            async move {
                let groups = within(GROUPS_TIMEOUT, node?.groups(disk)).await;
                Some((disk, groups.ok()?.ok()?))
            }
        });
        let answers: Vec<_> = stream::iter(asked)
            .buffer_unordered(DISKS_AT_ONCE)
            .collect()
            .await;
        let heard: BTreeSet<DiskId> = answers.iter().flatten().map(|(disk, _)| *disk).collect();
        let expected = map.topology(|disk| view.is_readable(disk));
        let complete = expected.disks().all(|disk| heard.contains(&disk.id));
        let mut knowing: HashMap<PgId, Vec<DiskId>> = HashMap::new();
        for (disk, groups) in answers.into_iter().flatten() {
            for (pg, _) in groups {
                let serves = |disk: DiskId| {
                    let mut members = map.group(pg).into_iter().flat_map(|group| group.disks());
                    map.is_in(disk) && members.any(|member| member == disk)
                };
                if !serves(disk) {
                    knowing.entry(pg).or_default().push(disk);
                }
            }
        }
        Self {
            knowing,
            complete,
            silent: Mutex::default(),
        }
    }

    /// The disks to ask about a group besides `serving`, its members in service.
    pub(crate) fn of(&self, pg: PgId, serving: &[DiskId]) -> Vec<DiskId> {
        let known = self.knowing.get(&pg).map_or(&[][..], Vec::as_slice);
        let silent = self.silent.lock();
        let asked = known.iter().copied();
        asked
            .filter(|disk| !serving.contains(disk) && !silent.contains(disk))
            .collect()
    }

    /// Whether nobody else can have what no member and none of these has.
    pub(crate) fn are_all(&self) -> bool {
        self.complete && self.silent.lock().is_empty()
    }

    /// Leaves a disk out from now on.
    pub(crate) fn leave_out(&self, disk: DiskId) {
        self.silent.lock().insert(disk);
    }
}
