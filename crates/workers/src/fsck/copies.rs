//! Is every chunk that a row names on every disk that should hold it?

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};
use granary_blob_api::{BlobError, ChunkEntry, GetChunk};
use granary_datapath::ClusterView;
use granary_meta_api::client::OwnerFate;
use granary_runtime::within;
use granary_types::{BucketId, ChunkId, DiskId};

use super::{FsckProgress, Named, Run, unreachable};
use crate::group_listing::LIST_TIMEOUT;
use crate::outsiders::Outsiders;

/// Requests to disks at once.
const CALLS: usize = 32;

/// What a disk says of a copy.
enum Copy {
    Here(ChunkEntry),
    Missing,
    Corrupt(String),
    /// It gave no answer.
    Unknown(String),
}

impl<P: Fn(FsckProgress)> Run<'_, P> {
    /// Looks at every copy of the chunks of a page.
    pub(super) async fn check_copies(&mut self, chunks: &[Named]) {
        let (view, deep) = (&self.fsck.view, self.fsck.deep);
        let map = view.map();
        let looks = chunks
            .iter()
            .enumerate()
            .filter(|(_, chunk)| !chunk.pending)
            .flat_map(|(index, chunk)| {
                let group = map.group(chunk.id.pg());
                let disks: Vec<DiskId> = group.map_or_else(Vec::new, |g| g.staying().collect());
                disks.into_iter().map(move |disk| (index, disk))
            });
        let looks: Vec<(usize, DiskId)> = looks.collect();
        let found = stream::iter(looks).map(|(index, disk)| async move {
            (index, disk, look_at(view, &chunks[index], disk, deep).await)
        });
        let found: Vec<_> = found.buffer_unordered(CALLS).collect().await;
        let mut by_chunk: HashMap<usize, Vec<(DiskId, Copy)>> = HashMap::new();
        for (index, disk, copy) in found {
            by_chunk.entry(index).or_default().push((disk, copy));
        }
        for (index, chunk) in chunks.iter().enumerate() {
            if !chunk.pending {
                let copies = by_chunk.remove(&index).unwrap_or_default();
                self.judge(chunk, copies).await;
            }
        }
    }

    /// Counts a chunk's copies. One that is bad or gone may just have been deleted with its object:
    /// that is asked again before it counts.
    async fn judge(&mut self, chunk: &Named, copies: Vec<(DiskId, Copy)>) {
        let all_good = !copies.is_empty() && copies.iter().all(|(_, copy)| is_good(chunk, copy));
        if !all_good && !self.is_still_named(chunk).await {
            return;
        }
        self.report.copies_expected += copies.len().max(1) as u64;
        let (mut good, mut unknown) = (0, false);
        for (disk, copy) in copies {
            match copy {
                Copy::Here(entry) => {
                    self.report.copies_checked += 1;
                    if self.fsck.deep {
                        self.report.bytes_checked += u64::from(entry.length);
                    }
                    match chunk.difference(&entry) {
                        None => good += 1,
                        Some(detail) => self.corrupt(chunk, disk, detail),
                    }
                }
                Copy::Corrupt(detail) => {
                    self.report.copies_checked += 1;
                    self.corrupt(chunk, disk, detail);
                }
                Copy::Missing => {
                    self.report.copies_checked += 1;
                    self.report.copies_missing += 1;
                    self.damaged("copy_missing", chunk, Some(disk), String::new());
                }
                Copy::Unknown(why) => {
                    unknown = true;
                    self.incomplete(unreachable(chunk.id.pg(), disk, &why));
                }
            }
        }
        if good > 0 {
            return;
        }
        if let Some(disk) = self.find_outside(chunk).await {
            self.report.chunks_outside += 1;
            let detail = "no good copy but on this disk, which does not serve the group";
            self.damaged("chunk_outside", chunk, Some(disk), detail.to_owned());
        } else if !unknown {
            self.report.chunks_lost += 1;
            self.damaged("chunk_lost", chunk, None, "no good copy".to_owned());
        }
    }

    /// A disk that does not serve the chunk's group, and has a good copy.
    async fn find_outside(&mut self, chunk: &Named) -> Option<DiskId> {
        let (view, deep) = (&self.fsck.view, self.fsck.deep);
        let outsiders = match self.outsiders.take() {
            Some(known) => known,
            None => Outsiders::find(view).await,
        };
        let outsiders = self.outsiders.insert(outsiders);
        let map = view.map();
        let group = map.group(chunk.id.pg());
        let members: Vec<DiskId> = group.map_or_else(Vec::new, |group| group.staying().collect());
        for disk in outsiders.of(chunk.id.pg(), &members) {
            let copy = look_at(view, chunk, disk, deep).await;
            if matches!(copy, Copy::Unknown(_)) {
                outsiders.leave_out(disk);
            } else if is_good(chunk, &copy) {
                return Some(disk);
            }
        }
        None
    }

    fn corrupt(&mut self, chunk: &Named, disk: DiskId, detail: String) {
        self.report.copies_corrupt += 1;
        self.damaged("copy_corrupt", chunk, Some(disk), detail);
    }

    /// Whether the object still has its chunks.
    async fn is_still_named(&mut self, chunk: &Named) -> bool {
        let asked = vec![chunk.object.clone()];
        let bucket = BucketId(chunk.bucket);
        match self.fsck.meta.owner_fates(bucket, asked).await {
            Ok(fates) => fates.values().any(|fate| *fate == OwnerFate::Settled),
            Err(error) => {
                let chunk = super::hex_of(chunk.id);
                self.incomplete(format!("owner of chunk {chunk}: {error}"));
                true
            }
        }
    }
}

fn is_good(chunk: &Named, copy: &Copy) -> bool {
    matches!(copy, Copy::Here(entry) if chunk.difference(entry).is_none())
}

async fn look_at(view: &ClusterView, chunk: &Named, disk: DiskId, deep: bool) -> Copy {
    let Some(node) = view.node_of(disk) else {
        return Copy::Unknown("its node is not known".to_owned());
    };
    let before = ChunkId(chunk.id.0.wrapping_sub(1));
    let before = (before.pg() == chunk.id.pg()).then_some(before);
    let listing = node.list(disk, chunk.id.pg(), before, 1);
    let entry = match within(LIST_TIMEOUT, listing).await {
        Ok(Ok(page)) => page.entries.into_iter().next(),
        Ok(Err(error)) => return Copy::Unknown(error.to_string()),
        Err(late) => return Copy::Unknown(late.to_string()),
    };
    let entry = match entry.filter(|entry| entry.id == chunk.id && !entry.deleted) {
        Some(entry) => entry,
        None => return Copy::Missing,
    };
    if !deep {
        return Copy::Here(entry);
    }
    let whole = GetChunk {
        id: chunk.id,
        offset: 0,
        length: entry.length,
        background: false,
    };
    match within(LIST_TIMEOUT, node.get(disk, whole)).await {
        Ok(Ok(read)) if read.blocks.iter().all(granary_blob_api::Block::is_intact) => {
            Copy::Here(entry)
        }
        Ok(Ok(_)) => Copy::Corrupt("bytes do not match their checksums".to_owned()),
        Ok(Err(BlobError::Corrupt(_))) => {
            Copy::Corrupt("bytes do not match their checksums".to_owned())
        }
        Ok(Err(BlobError::ChunkNotFound(_) | BlobError::ChunkDeleted(_))) => Copy::Missing,
        Ok(Err(error)) => Copy::Unknown(error.to_string()),
        Err(late) => Copy::Unknown(late.to_string()),
    }
}
