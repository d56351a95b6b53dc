//! Copies of one chunk that are sound, each by itself, and not the same: which one is right?
//!
//! Only the metadata can tell: it names length, digest and owner of every chunk. A copy is replaced
//! when it says something else and a copy that says the same was just read, every byte of it.
//! Without such proof nothing is touched.

use std::collections::BTreeMap;
use std::time::Duration;

use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_datapath::CopyCheck;
use granary_meta_api::pb;
use granary_types::{BucketId, ChunkId, DiskId, ObjectId};

use super::batch::{Batch, Reader};
use crate::WorkerError;
use crate::group_listing::GroupListing;
use crate::shard_walk::ShardWalk;

/// References per page.
const PAGE: u32 = 2000;

/// A look through the rows of every shard for some chunks.
pub(super) struct Lookup {
    /// Shards whose rows are still to be read.
    shards: ShardWalk,
    after: bytes::Bytes,
    named: BTreeMap<ChunkId, Named>,
}

/// What a row says of a chunk.
#[derive(Clone, Copy)]
struct Named {
    length: u32,
    digest: u32,
    owner: ChunkOwner,
}

impl Named {
    fn of(reference: &pb::Reference) -> Option<(ChunkId, Self)> {
        let extent = reference.extent.as_ref()?;
        let named = Self {
            length: extent.length,
            digest: extent.digest,
            owner: ChunkOwner {
                bucket: BucketId(reference.bucket_id),
                object: ObjectId::from_slice(&reference.object_id)?,
            },
        };
        Some((ChunkId::from_slice(&extent.chunk)?, named))
    }

    fn is(&self, entry: &ChunkEntry) -> bool {
        (entry.length, entry.digest, entry.owner) == (self.length, self.digest, self.owner)
    }
}

impl Reader {
    /// Settles the chunks of a batch whose copies differ; true when there is none left.
    pub(super) async fn settle(
        &self,
        batch: &mut Batch,
        until: Duration,
    ) -> Result<bool, WorkerError> {
        if batch.differing.is_empty() {
            return Ok(true);
        }
        let lookup = batch.lookup.get_or_insert_with(|| Lookup {
            shards: ShardWalk::new(&self.view),
            after: bytes::Bytes::new(),
            named: BTreeMap::new(),
        });
        while let Some(shard) = lookup.shards.current()
            && lookup.named.len() < batch.differing.len()
        {
            if self.runtime.monotonic() >= until {
                return Ok(false);
            }
            let query = pb::ListReferences {
                after: lookup.after.clone(),
                limit: PAGE,
            };
            let page = self.meta.query_at(shard, query).await?;
            let settled = page.references.iter().filter(|row| !row.pending);
            let named = settled.filter_map(Named::of);
            let wanted = named.filter(|(chunk, _)| batch.differing.contains(chunk));
            lookup.named.extend(wanted);
            lookup.after = page.next_after;
            if !page.more {
                lookup.shards.advance(&self.meta, &self.view).await?;
                lookup.after = bytes::Bytes::new();
            }
        }
        while let Some(&chunk) = batch.differing.first() {
            if self.runtime.monotonic() >= until {
                return Ok(false);
            }
            let settled = match lookup.named.get(&chunk) {
                Some(named) => self.put_right(chunk, named).await?,
                // Nothing refers to it, or not any more: the sweep or the deletion frees it.
                None => true,
            };
            if settled {
                self.report.lock().chunks_settled += 1;
            } else {
                tracing::error!(%chunk, "no copy could be proved right, or a wrong one stays");
            }
            batch.differing.pop_first();
        }
        batch.lookup = None;
        Ok(true)
    }

    /// Replaces the copies of a chunk that are not what its row names; true when all are that now.
    async fn put_right(&self, chunk: ChunkId, named: &Named) -> Result<bool, WorkerError> {
        let map = self.view.map();
        let Some(group) = map.group(chunk.pg()) else {
            return Ok(true);
        };
        let known = (group.id, group.epoch);
        let (mut right, mut wrong): (Option<ChunkEntry>, Vec<DiskId>) = (None, Vec::new());
        let mut sources = Vec::new();
        for disk in self.repair.serving(group) {
            // One by one: a merged listing tells only one of the entries.
            let found = GroupListing::of_one(&self.view, chunk, &[disk])?
                .next()
                .await?;
            let Some(found) = found.filter(|found| found.entry.id == chunk) else {
                continue;
            };
            if found.live.is_empty() {
                continue;
            }
            if !named.is(&found.entry) {
                wrong.push(disk);
            } else if self.path.verify_copy(&found.entry, disk).await == CopyCheck::Good {
                right = Some(found.entry);
                sources.push(disk);
            }
        }
        let Some(right) = right else {
            return Ok(wrong.is_empty());
        };
        let mut settled = true;
        for disk in wrong {
            tracing::warn!(%chunk, %disk, "a copy that is not what was stored is replaced");
            // A disk takes no other bytes for an id that it holds; and a tombstone would say that
            // the chunk was deleted.
            let gone = self.deleter.evict_on(disk, known, &[chunk]).await;
            let restored = self.path.restore_chunk(&right, &sources, disk, group.epoch);
            settled &= gone && restored.await.is_ok();
        }
        Ok(settled)
    }
}
