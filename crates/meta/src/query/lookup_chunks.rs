//! LookupChunks: which of some chunks, written for one object id, do rows name?
//!
//! Invariant: an answer is decided only when it is final. The owner is an object or a part in the
//! snapshot that is read, the shard owns its key, and all of its body was read: no command adds a
//! chunk to such a body, and no other object id refers to chunks of this one. Whatever is not
//! certain, or more than a bounded look shows, is not decided.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_types::{BucketId, ObjectType};

use super::{Answer, QueryError, ShardView};
use crate::apply::parts::part_bounds;
use crate::keyspace::extent::ExtentKey;
use crate::keyspace::head::HeadKey;
use crate::keyspace::owner::OwnerKey;
use crate::keyspace::part::PartKey;
use crate::keyspace::part_page::PartPageKey;
use crate::keyspace::upload::UploadKey;
use crate::keyspace::version::VersionKey;
use crate::keyspace::{Id, Newest, same_holder};
use crate::limits::{CHUNKS_PER_QUERY_MAX, ROWS_PER_PAGE_MAX};
use crate::ownership::{KeySpan, Place, data_slabs, place_at};
use crate::rows::Rows;

impl Answer for pb::LookupChunks {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        if self.chunks.len() > CHUNKS_PER_QUERY_MAX {
            return Err(QueryError::Invalid("too many chunks"));
        }
        let object = Id::from_slice(&self.object_id);
        let object = object.ok_or(QueryError::Invalid("not an object id"))?;
        let bucket = BucketId(self.bucket_id);
        let segment = self.segment.unwrap_or_default();
        shard.slab(&KeySpan::new(
            self.bucket_id,
            &segment.start_key,
            segment.bounded,
            &segment.end_key,
        ))?;
        let Some((place, owner)) = find_owner(shard, bucket, object)? else {
            return Ok(Reply::Chunks(pb::ChunksResult::default()));
        };
        let mut lookup = Lookup {
            shard,
            place,
            object,
            asked: self.chunks.into_iter().collect(),
            named: BTreeSet::new(),
            rows: ROWS_PER_PAGE_MAX,
        };
        let decided = match owner.state() {
            State::Committed => lookup.object(owner.stamp)?,
            State::Part => lookup.part(&owner.upload_id)?,
            State::Writing | State::Deleting | State::Deleted => false,
        };
        let named = lookup.named.into_iter().filter(|_| decided);
        Ok(Reply::Chunks(pb::ChunksResult {
            decided,
            named: named.collect(),
        }))
    }
}

/// The owner row of an id, and its place, when the shard owns that.
fn find_owner(
    shard: &ShardView<'_>,
    bucket: BucketId,
    object: Id,
) -> Result<Option<(Place, state::Owner)>, QueryError> {
    for slab in data_slabs(&shard.descriptor) {
        let row = OwnerKey {
            slab,
            bucket,
            object,
        };
        if let Some(owner) = shard.rows.get(&row)? {
            // A sibling's rows lie in the same slab.
            let place = place_at(&shard.descriptor, bucket, &owner.key);
            let mine = place.filter(|place| place.slab == slab);
            return Ok(mine.map(|place| (place, owner)));
        }
    }
    Ok(None)
}

struct Lookup<'s> {
    shard: &'s ShardView<'s>,
    place: Place,
    object: Id,
    asked: HashSet<Bytes>,
    named: BTreeSet<Bytes>,
    /// Rows that may still be read.
    rows: usize,
}

/// Every step answers whether it found all that it had to: false means not certain.
impl Lookup<'_> {
    /// The body of a version.
    fn object(&mut self, stamp: u64) -> Result<bool, QueryError> {
        let Some(version) = self.version(self.object, stamp)? else {
            return Ok(false);
        };
        // Only what is written in one piece is complete with its commit: an append adds chunks
        // later. The chunks of a multipart object carry the ids of its parts.
        if ObjectType::from_number(version.object_type) != Some(ObjectType::Normal) {
            return Ok(false);
        }
        self.body(version.body.as_ref())
    }

    /// The body of a part, of an upload under way or of the object that was made of it.
    fn part(&mut self, upload: &[u8]) -> Result<bool, QueryError> {
        let Some(upload) = Id::from_slice(upload) else {
            return Ok(false);
        };
        let body = match self.uploaded_part(upload)? {
            Some(part) => part.body,
            None => self.completed_part(upload)?.and_then(|part| part.body),
        };
        self.body(body.as_ref())
    }

    fn uploaded_part(&mut self, upload: Id) -> Result<Option<state::Part>, QueryError> {
        let row = UploadKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            key: self.place.key.clone(),
            upload,
        };
        for part in self.shard.rows.rows::<PartKey>(&part_bounds(&row)) {
            let (_, part) = part?;
            if !self.spend() {
                break;
            }
            if part.object_id == self.object.0[..] {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// The part in the pages of the object that carries its upload's id.
    fn completed_part(&mut self, upload: Id) -> Result<Option<state::PartRef>, QueryError> {
        let owner = self.shard.rows.get(&OwnerKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            object: upload,
        })?;
        let ours = |owner: &state::Owner| {
            owner.state() == State::Committed && same_holder(&owner.key, &self.place.key)
        };
        let Some(owner) = owner.filter(ours) else {
            return Ok(None);
        };
        // An object that was renamed took its upload's owner row along, not those of its parts.
        self.place = self.place.held_at(&owner.key);
        let version = self.version(upload, owner.stamp)?;
        let body = version.and_then(|version| version.body);
        let pages = match body.and_then(|body| body.place) {
            Some(BodyPlace::Parts(parts)) => parts.pages,
            Some(BodyPlace::Appended(appended)) => appended.pages,
            _ => return Ok(None),
        };
        for page in 0..pages {
            if !self.spend() {
                break;
            }
            let page = self.shard.rows.get(&PartPageKey {
                slab: self.place.slab,
                bucket: self.place.bucket,
                object: upload,
                page,
            })?;
            let mut parts = page.unwrap_or_default().parts.into_iter();
            let found = parts.find(|part| part.object_id == self.object.0[..]);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The version of the owner's key that carries an id: the current one, or the one with the
    /// stamp.
    fn version(&self, object: Id, stamp: u64) -> Result<Option<state::Version>, QueryError> {
        let carries = |version: &state::Version| version.object_id == object.0[..];
        let head = self.shard.rows.get(&HeadKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            key: self.place.key.clone(),
        })?;
        let current = head.and_then(|head| head.current).filter(carries);
        if current.is_some() {
            return Ok(current);
        }
        let version = self.shard.rows.get(&VersionKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            key: self.place.key.clone(),
            stamp: Newest(stamp),
        })?;
        Ok(version.filter(carries))
    }

    fn body(&mut self, body: Option<&state::Body>) -> Result<bool, QueryError> {
        match body.and_then(|body| body.place.as_ref()) {
            Some(BodyPlace::Extents(extents)) => Ok(self.extents(&extents.extents)),
            Some(BodyPlace::Pages(paged)) => self.pages(paged),
            Some(BodyPlace::Inline(_) | BodyPlace::Parts(_) | BodyPlace::Appended(_)) | None => {
                Ok(false)
            }
        }
    }

    fn pages(&mut self, paged: &state::PagedBody) -> Result<bool, QueryError> {
        let mut extents = 0;
        for page in 0..paged.pages {
            if !self.spend() {
                return Ok(false);
            }
            let page = self.shard.rows.get(&ExtentKey {
                slab: self.place.slab,
                bucket: self.place.bucket,
                object: self.object,
                page,
            })?;
            let page = page.unwrap_or_default();
            if !self.extents(&page.extents) {
                return Ok(false);
            }
            extents += page.extents.len() as u64;
        }
        Ok(extents == paged.extents)
    }

    fn extents(&mut self, extents: &[state::Extent]) -> bool {
        for extent in extents {
            if self.asked.contains(&extent.chunk) {
                self.named.insert(extent.chunk.clone());
            }
        }
        // The pieces of a coded chunk may have ids that no row spells out.
        extents.iter().all(|extent| extent.code == 0)
    }

    /// False when no more rows may be read.
    fn spend(&mut self) -> bool {
        let left = self.rows.checked_sub(1);
        self.rows = left.unwrap_or_default();
        left.is_some()
    }
}
