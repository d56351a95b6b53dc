//! GetVersion: one version of a key, with its bytes where they stand in the metadata.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;

use super::{Answer, QueryError, ShardView};
use crate::apply::OBJECTS;
use crate::keyspace::head::HeadKey;
use crate::keyspace::inline::InlineKey;
use crate::keyspace::version::VersionKey;
use crate::keyspace::{Id, Newest, anchor};
use crate::ownership::Place;
use crate::paths::{directory_at, shown};
use crate::rows::Rows;

impl Answer for pb::GetVersion {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let (place, view) = shard.locate(self.at.as_ref())?;
        let mut result = pb::VersionResult {
            bucket_unknown: view.is_none_or(|view| view.dropped),
            takes_object_meta: shard.clock.feature_level >= OBJECTS,
            ..Default::default()
        };
        if let Some(version) = find(shard, &place, self.version_stamp, self.null_version)? {
            if self.with_body {
                result.inline = inline(shard, &place, &version)?;
            }
            result.found = true;
            result.version = Some(version);
        }
        Ok(Reply::Version(result))
    }
}

fn find(
    shard: &ShardView<'_>,
    place: &Place,
    stamp: u64,
    null: bool,
) -> Result<Option<state::Version>, QueryError> {
    let head = shard.rows.get(&HeadKey {
        slab: place.slab,
        bucket: place.bucket,
        key: place.key.clone(),
    })?;
    let Some(state::Head {
        current: Some(current),
        null_stamp,
    }) = head
    else {
        return directory(shard, place, stamp);
    };
    let is_current = match (stamp, null) {
        (0, false) => true,
        (0, true) => current.is_null,
        (stamp, _) => current.stamp == stamp,
    };
    if is_current {
        return Ok(Some(current));
    }
    let stamp = if null { null_stamp } else { stamp };
    if stamp == 0 {
        return Ok(None);
    }
    let row = VersionKey {
        slab: place.slab,
        bucket: place.bucket,
        key: place.key.clone(),
        stamp: Newest(stamp),
    };
    Ok(shard.rows.get(&row)?)
}

/// A directory of that name stands for itself; it has no versions to name.
fn directory(
    shard: &ShardView<'_>,
    place: &Place,
    stamp: u64,
) -> Result<Option<state::Version>, QueryError> {
    if stamp != 0 {
        return Ok(None);
    }
    let found = directory_at(&shard.rows, place)?;
    Ok(found.map(|(_, directory)| shown(&directory)))
}

fn inline(
    shard: &ShardView<'_>,
    place: &Place,
    version: &state::Version,
) -> Result<Bytes, QueryError> {
    let body = version.body.as_ref().and_then(|body| body.place.as_ref());
    let Some(BodyPlace::Inline(_)) = body else {
        return Ok(Bytes::new());
    };
    let Some(object) = Id::from_slice(&version.object_id) else {
        return Ok(Bytes::new());
    };
    inline_bytes(shard, place, object)
}

/// The inline bytes of an object or a part; empty when there are none.
pub(super) fn inline_bytes(
    shard: &ShardView<'_>,
    place: &Place,
    object: Id,
) -> Result<Bytes, QueryError> {
    let row = InlineKey {
        slab: place.slab,
        bucket: place.bucket,
        key: anchor(&place.key),
        object,
    };
    Ok(shard.rows.get(&row)?.unwrap_or_default())
}
