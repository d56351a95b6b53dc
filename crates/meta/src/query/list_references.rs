//! ListReferences: every chunk that the shard's rows name, for whoever compares the metadata with
//! the disks. What belongs to unfinished writes and queued deletions is marked: the disks may or may
//! not have it.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_types::{BucketId, SlabId};
use prost::Message as _;

use super::{Answer, QueryError, ShardView, page_limit};
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::extent::ExtentKey;
use crate::keyspace::head::HeadKey;
use crate::keyspace::owner::OwnerKey;
use crate::keyspace::part::PartKey;
use crate::keyspace::part_page::PartPageKey;
use crate::keyspace::version::VersionKey;
use crate::keyspace::{Id, Kind, RowKey, decode_value, kind_prefix};
use crate::limits::{PAGE_BYTES_MAX, ROWS_PER_PAGE_MAX};
use crate::ownership::{data_slabs, object_bounds, place_at, positional_bounds, start_of};
use crate::paths::path_of;
use crate::rows::{Bounds, RawRows, Rows};

/// References in one page, about; the references of one row are never torn apart.
const REFERENCES_MAX: usize = 10_000;

/// The kinds whose rows name chunks, in the order of their numbers.
const KINDS: [Kind; 6] = [
    Kind::Head,
    Kind::Version,
    Kind::Part,
    Kind::Deletion,
    Kind::Extent,
    Kind::PartPage,
];

impl Answer for pb::ListReferences {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let limit = page_limit(self.limit, REFERENCES_MAX).max(1);
        let mut walk = Walk {
            shard,
            page: pb::ReferencesPage::default(),
            bytes: 0,
        };
        let mut rows = ROWS_PER_PAGE_MAX;
        for slab in data_slabs(&shard.descriptor) {
            for (kind, bounds) in sections(&shard.descriptor, slab) {
                if bounds
                    .end
                    .as_deref()
                    .is_some_and(|end| end <= &self.after[..])
                {
                    continue;
                }
                let mut start = self.after.to_vec();
                start.push(0);
                let bounds = bounds.from(start);
                for row in shard.rows.scan_raw(&bounds.start, bounds.end.as_deref()) {
                    let (key, value) = row?;
                    let full = walk.page.references.len() >= limit || walk.bytes >= PAGE_BYTES_MAX;
                    if rows == 0 || full {
                        walk.page.more = true;
                        return Ok(Reply::References(walk.page));
                    }
                    rows -= 1;
                    walk.row(slab, kind, &key, value)?;
                    walk.page.next_after = key;
                }
            }
        }
        Ok(Reply::References(walk.page))
    }
}

/// Where the rows of a slab stand, ascending. What stands by time or by object id is among that of other shards of the
/// slab, and is told apart row by row.
fn sections(descriptor: &state::ShardDescriptor, slab: SlabId) -> Vec<(Kind, Bounds)> {
    let ranges = descriptor.ranges.iter();
    let mut ranges: Vec<_> = ranges.filter(|range| range.slab == slab.0).collect();
    ranges.sort_by(|a, b| start_of(a).cmp(&start_of(b)));
    let of_kind = |kind: Kind| {
        if Kind::POSITIONAL.contains(&kind) {
            let bounds = ranges.iter().map(|range| positional_bounds(range, kind));
            bounds.map(|bounds| (kind, bounds)).collect::<Vec<_>>()
        } else if Kind::OWNED.contains(&kind) {
            vec![(kind, object_bounds(&descriptor.ranges, slab, kind))]
        } else {
            vec![(kind, Bounds::prefix(kind_prefix(slab, kind)))]
        }
    };
    KINDS.into_iter().flat_map(of_kind).collect()
}

struct Walk<'s> {
    shard: &'s ShardView<'s>,
    page: pb::ReferencesPage,
    /// Bytes of the references on the wire.
    bytes: usize,
}

/// Whose chunks they are.
struct Whose<'a> {
    bucket: BucketId,
    object: &'a [u8],
    key: &'a Bytes,
    pending: bool,
}

impl Walk<'_> {
    fn row(
        &mut self,
        slab: SlabId,
        kind: Kind,
        key: &Bytes,
        value: Bytes,
    ) -> Result<(), QueryError> {
        match kind {
            Kind::Head => {
                let row = HeadKey::decode(key)?;
                let head: state::Head = decode_value(kind, value)?;
                let version = head.current.unwrap_or_default();
                self.version(slab, row.bucket, &row.key, &version)?;
            }
            Kind::Version => {
                let row = VersionKey::decode(key)?;
                let version: state::Version = decode_value(kind, value)?;
                self.version(slab, row.bucket, &row.key, &version)?;
            }
            Kind::Part => {
                let row = PartKey::decode(key)?;
                let part: state::Part = decode_value(kind, value)?;
                let whose = Whose {
                    bucket: row.bucket,
                    object: &part.object_id,
                    key: &row.key,
                    pending: false,
                };
                self.body(slab, &whose, part.body.as_ref())?;
            }
            Kind::Deletion => {
                let row = DeletionKey::decode(key)?;
                let deletion: state::Deletion = decode_value(kind, value)?;
                let whose = Whose {
                    bucket: row.bucket,
                    object: &row.object.0,
                    key: &deletion.key,
                    pending: true,
                };
                self.body(slab, &whose, deletion.body.as_ref())?;
            }
            Kind::Extent => {
                let row = ExtentKey::decode(key)?;
                let page: state::ExtentPage = decode_value(kind, value)?;
                if let Some(owner) = self.owner(slab, row.bucket, row.object)? {
                    let whose = Whose {
                        bucket: row.bucket,
                        object: &row.object.0,
                        key: &owner.key,
                        pending: is_pending(&owner),
                    };
                    self.extents(slab, &whose, &page.extents)?;
                }
            }
            Kind::PartPage => {
                let row = PartPageKey::decode(key)?;
                let page: state::PartPage = decode_value(kind, value)?;
                if let Some(owner) = self.owner(slab, row.bucket, row.object)? {
                    for part in &page.parts {
                        let whose = Whose {
                            bucket: row.bucket,
                            object: &part.object_id,
                            key: &owner.key,
                            pending: is_pending(&owner),
                        };
                        self.body(slab, &whose, part.body.as_ref())?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn version(
        &mut self,
        slab: SlabId,
        bucket: BucketId,
        key: &Bytes,
        version: &state::Version,
    ) -> Result<(), QueryError> {
        let whose = Whose {
            bucket,
            object: &version.object_id,
            key,
            pending: false,
        };
        self.body(slab, &whose, version.body.as_ref())
    }

    /// References that stand in a record; those in pages come with the pages' own rows.
    fn body(
        &mut self,
        slab: SlabId,
        whose: &Whose<'_>,
        body: Option<&state::Body>,
    ) -> Result<(), QueryError> {
        match body.and_then(|body| body.place.as_ref()) {
            Some(BodyPlace::Extents(extents)) => self.extents(slab, whose, &extents.extents),
            _ => Ok(()),
        }
    }

    fn extents(
        &mut self,
        slab: SlabId,
        whose: &Whose<'_>,
        extents: &[state::Extent],
    ) -> Result<(), QueryError> {
        // A sibling's rows lie in the same slab.
        let place = place_at(&self.shard.descriptor, whose.bucket, whose.key);
        if extents.is_empty() || place.is_none_or(|place| place.slab != slab) {
            return Ok(());
        }
        let path = path_of(&self.shard.rows, slab, whose.bucket, whose.key)?;
        for extent in extents {
            let reference = pb::Reference {
                extent: Some(extent.clone()),
                bucket_id: whose.bucket.0,
                object_id: Bytes::copy_from_slice(whose.object),
                key: path.clone(),
                pending: whose.pending,
            };
            self.bytes += reference.encoded_len();
            self.page.references.push(reference);
        }
        Ok(())
    }

    fn owner(
        &self,
        slab: SlabId,
        bucket: BucketId,
        object: Id,
    ) -> Result<Option<state::Owner>, QueryError> {
        Ok(self.shard.rows.get(&OwnerKey {
            slab,
            bucket,
            object,
        })?)
    }
}

fn is_pending(owner: &state::Owner) -> bool {
    match owner.state() {
        State::Committed | State::Part => false,
        State::Writing | State::Deleting | State::Deleted => true,
    }
}
