//! The root's hint of who owns what. The shards' own descriptors are the authority.

use bytes::Bytes;
use granary_types::{BucketId, ShardId};

use crate::pb;

/// Ranges in key order.
#[derive(Debug, Default)]
pub struct RangeMap {
    epoch: u64,
    ranges: Vec<pb::state::RangeHint>,
}

/// The part of a bucket that one shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSegment {
    /// Who holds it.
    pub shard: ShardId,
    /// First key (inclusive); empty for the start of the bucket.
    pub start_key: Bytes,
    /// Key after the last; `None` for the end of the bucket.
    pub end_key: Option<Bytes>,
}

impl RangeMap {
    /// A map of a given epoch.
    pub fn new(epoch: u64, mut ranges: Vec<pb::state::RangeHint>) -> Self {
        ranges.sort_by(|a, b| start_of(a).cmp(&start_of(b)));
        Self { epoch, ranges }
    }

    /// The root's epoch of this map; 0 when nothing is known.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who owns a position.
    pub fn shard_at(&self, bucket: BucketId, key: &[u8]) -> Option<ShardId> {
        let after = self
            .ranges
            .partition_point(|hint| start_of(hint) <= (bucket.0, key));
        let hint = self.ranges.get(after.checked_sub(1)?)?;
        let range = hint.range.as_ref()?;
        let inside = !range.bounded || (bucket.0, key) < (range.end_bucket, range.end_key.as_ref());
        inside.then_some(ShardId(hint.shard))
    }

    /// The shards that hold parts of a bucket, in key order; empty when the map has a gap there.
    pub fn segments(&self, bucket: BucketId) -> Vec<BucketSegment> {
        let mut segments = Vec::new();
        let mut start_key = Bytes::new();
        loop {
            let Some(shard) = self.shard_at(bucket, &start_key) else {
                return Vec::new();
            };
            let after = self
                .ranges
                .partition_point(|h| start_of(h) <= (bucket.0, &start_key));
            let range = self
                .ranges
                .get(after.saturating_sub(1))
                .and_then(|h| h.range.as_ref());
            let end = range
                .filter(|r| r.bounded && r.end_bucket == bucket.0)
                .map(|r| &r.end_key);
            let end_key = end.filter(|key| !key.is_empty()).cloned();
            segments.push(BucketSegment {
                shard,
                start_key,
                end_key: end_key.clone(),
            });
            match end_key {
                Some(key) => start_key = key,
                None => return segments,
            }
        }
    }

    /// Every shard in the map, each once.
    pub fn shards(&self) -> Vec<ShardId> {
        let mut shards: Vec<_> = self.ranges.iter().map(|hint| ShardId(hint.shard)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

fn start_of(hint: &pb::state::RangeHint) -> (u64, &[u8]) {
    hint.range.as_ref().map_or((0, &[][..]), |range| {
        (range.start_bucket, range.start_key.as_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(
        shard: u32,
        start: (u64, &'static str),
        end: Option<(u64, &'static str)>,
    ) -> pb::state::RangeHint {
        let (end_bucket, end_key) = end.unwrap_or((0, ""));
        let range = pb::state::Range {
            start_bucket: start.0,
            start_key: Bytes::from_static(start.1.as_bytes()),
            bounded: end.is_some(),
            end_bucket,
            end_key: Bytes::from_static(end_key.as_bytes()),
            ..Default::default()
        };
        pb::state::RangeHint {
            shard,
            range: Some(range),
            voters: vec![],
        }
    }

    #[test]
    fn finds_owners_and_segments() {
        let map = RangeMap::new(
            1,
            vec![hint(2, (5, "m"), None), hint(1, (0, ""), Some((5, "m")))],
        );
        assert_eq!(map.shard_at(BucketId(4), b"z"), Some(ShardId(1)));
        assert_eq!(map.shard_at(BucketId(5), b"a"), Some(ShardId(1)));
        assert_eq!(map.shard_at(BucketId(5), b"m"), Some(ShardId(2)));
        assert_eq!(map.shard_at(BucketId(9), b""), Some(ShardId(2)));
        let shards: Vec<_> = map
            .segments(BucketId(5))
            .iter()
            .map(|s| s.shard.0)
            .collect();
        assert_eq!(shards, [1, 2]);
        assert_eq!(map.segments(BucketId(4)).len(), 1);
        assert_eq!(map.segments(BucketId(6)).len(), 1);
    }

    #[test]
    fn a_gap_has_no_owner() {
        let map = RangeMap::new(1, vec![hint(1, (3, ""), Some((5, "")))]);
        assert_eq!(map.shard_at(BucketId(2), b""), None);
        assert_eq!(map.shard_at(BucketId(5), b""), None);
        assert!(map.segments(BucketId(2)).is_empty());
    }
}
