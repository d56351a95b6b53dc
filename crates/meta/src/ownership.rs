//! What a shard owns: positions, intervals, and the rows that lie in them. Pure.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::{BucketId, SlabId};

use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::rows::Bounds;

/// A position that its shard owns, and the slab it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slab: SlabId,
    pub(crate) bucket: BucketId,
    pub(crate) key: Bytes,
}

impl Place {
    /// The same bucket's place of another key.
    pub(crate) fn held_at(&self, key: &Bytes) -> Self {
        Self {
            key: key.clone(),
            ..self.clone()
        }
    }
}

/// Consecutive keys of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySpan<'a> {
    pub(crate) bucket: BucketId,
    pub(crate) start: &'a [u8],
    /// `None`: to the end of the bucket.
    pub(crate) end: Option<&'a [u8]>,
}

impl<'a> KeySpan<'a> {
    /// The span of a message; `bounded` says whether `end` counts.
    pub(crate) fn new(bucket: u64, start: &'a [u8], bounded: bool, end: &'a [u8]) -> Self {
        Self {
            bucket: BucketId(bucket),
            start,
            end: bounded.then_some(end),
        }
    }

    /// The first position after the span; `None` when nothing comes after it.
    fn end_position(&self) -> Option<(u64, &'a [u8])> {
        match self.end {
            Some(end) => Some((self.bucket.0, end)),
            None => Some((self.bucket.0.checked_add(1)?, &[])),
        }
    }
}

/// First position of a range.
pub(crate) fn start_of(range: &state::Range) -> (u64, &[u8]) {
    (range.start_bucket, &range.start_key)
}

/// First position after a range; `None` when it has no upper bound.
pub(crate) fn end_of(range: &state::Range) -> Option<(u64, &[u8])> {
    range
        .bounded
        .then_some((range.end_bucket, range.end_key.as_ref()))
}

/// True when a position lies in both ranges; their slabs are not looked at.
pub(crate) fn overlap(a: &state::Range, b: &state::Range) -> bool {
    end_of(a).is_none_or(|end| start_of(b) < end) && end_of(b).is_none_or(|end| start_of(a) < end)
}

/// What `old` has below `new`.
pub(crate) fn below(old: &state::Range, new: &state::Range) -> Option<state::Range> {
    (start_of(old) < start_of(new)).then(|| state::Range {
        bounded: true,
        end_bucket: new.start_bucket,
        end_key: new.start_key.clone(),
        ..old.clone()
    })
}

/// What `old` has above `new`.
pub(crate) fn above(old: &state::Range, new: &state::Range) -> Option<state::Range> {
    let end = end_of(new)?;
    end_of(old)
        .is_none_or(|old_end| end < old_end)
        .then(|| state::Range {
            start_bucket: new.end_bucket,
            start_key: new.end_key.clone(),
            ..old.clone()
        })
}

/// What some ranges have outside of another one.
pub(crate) fn without(ranges: &[state::Range], other: &state::Range) -> Vec<state::Range> {
    let rest = ranges.iter().flat_map(|range| match overlap(range, other) {
        false => vec![range.clone()],
        true => below(range, other)
            .into_iter()
            .chain(above(range, other))
            .collect(),
    });
    rest.collect()
}

/// True when the position lies in the range.
pub(crate) fn contains(range: &state::Range, bucket: u64, key: &[u8]) -> bool {
    let at = (bucket, key);
    start_of(range) <= at && end_of(range).is_none_or(|end| at < end)
}

/// Which of a shard's ranges owns a position.
pub(crate) fn range_at<'d>(
    descriptor: &'d state::ShardDescriptor,
    bucket: BucketId,
    key: &[u8],
) -> Option<&'d state::Range> {
    descriptor
        .ranges
        .iter()
        .find(|range| contains(range, bucket.0, key))
}

/// The place of a position, when the shard owns it.
pub(crate) fn place_at(
    descriptor: &state::ShardDescriptor,
    bucket: BucketId,
    key: &Bytes,
) -> Option<Place> {
    let range = range_at(descriptor, bucket, key)?;
    Some(Place {
        slab: SlabId(range.slab),
        bucket,
        key: key.clone(),
    })
}

/// The slab of a span, when one of the shard's ranges owns all of it.
pub(crate) fn slab_of_span(
    descriptor: &state::ShardDescriptor,
    span: &KeySpan<'_>,
) -> Option<SlabId> {
    let range = range_at(descriptor, span.bucket, span.start)?;
    let inside = match (end_of(range), span.end_position()) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(range_end), Some(span_end)) => span_end <= range_end,
    };
    inside.then_some(SlabId(range.slab))
}

/// True when a part of the bucket lies in one of the shard's ranges.
pub(crate) fn touches_bucket(descriptor: &state::ShardDescriptor, bucket: BucketId) -> bool {
    descriptor.ranges.iter().any(|range| {
        let starts_before_end = range.start_bucket <= bucket.0;
        let ends_after_start = end_of(range).is_none_or(|end| end > (bucket.0, &[][..]));
        starts_before_end && ends_after_start
    })
}

/// The slabs a shard's ranges lie in, each once.
pub(crate) fn data_slabs(descriptor: &state::ShardDescriptor) -> Vec<SlabId> {
    let mut slabs: Vec<_> = descriptor.ranges.iter().map(|r| SlabId(r.slab)).collect();
    slabs.sort_unstable();
    slabs.dedup();
    slabs
}

fn position_bytes(bucket: u64, key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    bucket.write(&mut out);
    Bytes::copy_from_slice(key).write(&mut out);
    out
}

/// The rows of a positional kind that lie in a range.
pub(crate) fn positional_bounds(range: &state::Range, kind: Kind) -> Bounds {
    bounds_after(range, kind_prefix(SlabId(range.slab), kind))
}

/// The rows of a timed kind that stand in a minute and lie in a range.
pub(crate) fn timed_bounds(range: &state::Range, kind: Kind, minute: u32) -> Bounds {
    let mut prefix = kind_prefix(SlabId(range.slab), kind);
    minute.write(&mut prefix);
    bounds_after(range, prefix)
}

fn bounds_after(range: &state::Range, prefix: Vec<u8>) -> Bounds {
    let (bucket, key) = start_of(range);
    let start = position_bytes(bucket, key, prefix.clone());
    let end = match end_of(range) {
        Some((bucket, key)) => Some(position_bytes(bucket, key, prefix)),
        None => Bounds::prefix(prefix).end,
    };
    Bounds { start, end }
}

/// The rows of a kind that stands by bucket and object id among which all are that belong to some of a shard's
/// ranges; those of siblings with keys of the same buckets are among them too.
pub(crate) fn object_bounds(ranges: &[state::Range], slab: SlabId, kind: Kind) -> Bounds {
    let prefix = kind_prefix(slab, kind);
    let of_slab = || ranges.iter().filter(|range| range.slab == slab.0);
    let first = of_slab().map(|range| range.start_bucket).min();
    let behind = |range| match end_of(range) {
        Some((bucket, b"")) => bucket,
        Some((bucket, _)) => bucket.saturating_add(1),
        None => u64::MAX,
    };
    let at = |bucket: u64| {
        let mut key = prefix.clone();
        bucket.write(&mut key);
        key
    };
    let end = match of_slab().map(behind).max() {
        // The last bucket of all has no number behind it.
        Some(u64::MAX) => Bounds::prefix(prefix.clone()).end,
        behind => Some(at(behind.unwrap_or(0))),
    };
    Bounds {
        start: at(first.unwrap_or(0)),
        end,
    }
}

/// The rows of a positional kind that lie in a span of keys.
pub(crate) fn span_bounds(slab: SlabId, kind: Kind, span: &KeySpan<'_>) -> Bounds {
    let prefix = kind_prefix(slab, kind);
    let start = position_bytes(span.bucket.0, span.start, prefix.clone());
    let end = match span.end_position() {
        Some((bucket, key)) => Some(position_bytes(bucket, key, prefix)),
        None => Bounds::prefix(prefix).end,
    };
    Bounds { start, end }
}

/// The rows of a positional kind that belong to one key.
pub(crate) fn key_bounds(place: &Place, kind: Kind) -> Bounds {
    let prefix = kind_prefix(place.slab, kind);
    Bounds::prefix(position_bytes(place.bucket.0, &place.key, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::head::HeadKey;
    use crate::keyspace::owner::OwnerKey;
    use crate::keyspace::{Id, RowKey};

    fn range(start: (u64, &'static [u8]), end: Option<(u64, &'static [u8])>) -> state::Range {
        let (end_bucket, end_key) = end.unwrap_or((0, b""));
        state::Range {
            slab: 3,
            start_bucket: start.0,
            start_key: Bytes::from_static(start.1),
            bounded: end.is_some(),
            end_bucket,
            end_key: Bytes::from_static(end_key),
            epoch: 1,
        }
    }

    #[test]
    fn rows_lie_in_the_bounds_of_the_range_that_contains_their_position() {
        let ranges = [
            range((0, b""), Some((5, b"m"))),
            range((5, b"m"), Some((5, b"m\0"))),
            range((5, b"m\0"), Some((9, b""))),
            range((9, b""), None),
        ];
        let keys: [&'static [u8]; 8] = [b"", b"\0", b"a", b"l\xff", b"m", b"m\0", b"m\0\0", b"n"];
        for bucket in [0, 4, 5, 8, 9, u64::MAX] {
            for key in keys {
                let row = HeadKey {
                    slab: SlabId(3),
                    bucket: BucketId(bucket),
                    key: Bytes::from_static(key),
                };
                let row = row.encode();
                for range in &ranges {
                    let bounds = positional_bounds(range, Kind::Head);
                    let inside =
                        bounds.start <= row && bounds.end.as_ref().is_none_or(|end| row < *end);
                    assert_eq!(
                        inside,
                        contains(range, bucket, key),
                        "{bucket} {key:?} {range:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_stands_by_object_lies_in_the_bounds_of_its_bucket() {
        let inside = |ranges: &[state::Range], bucket| {
            let row = OwnerKey {
                slab: SlabId(3),
                bucket: BucketId(bucket),
                object: Id([0xff; 16]),
            };
            let (row, bounds) = (row.encode(), object_bounds(ranges, SlabId(3), Kind::Owner));
            bounds.start <= row && bounds.end.is_none_or(|end| row < end)
        };
        let buckets = [0, 4, 5, 8, 9, u64::MAX];
        let of = |ranges: &[state::Range]| buckets.map(|bucket| inside(ranges, bucket));
        let (yes, no) = (true, false);
        let lower = range((0, b""), Some((5, b"m")));
        let middle = range((5, b"m"), Some((9, b"")));
        let upper = range((9, b""), None);
        assert_eq!(of(&[lower.clone()]), [yes, yes, yes, no, no, no]);
        assert_eq!(of(&[middle.clone()]), [no, no, yes, yes, no, no]);
        assert_eq!(of(&[upper.clone()]), [no, no, no, no, yes, yes]);
        assert_eq!(of(&[upper, lower.clone()]), [yes; 6]);
        assert_eq!(of(&[middle, lower]), [yes, yes, yes, yes, no, no]);
        assert_eq!(of(&[]), [no; 6]);
    }

    #[test]
    fn what_is_left_of_ranges_has_no_gap_and_nothing_twice() {
        let all = [range((0, b""), Some((5, b"m"))), range((5, b"m"), None)];
        for other in [
            range((3, b"a"), Some((4, b""))),
            range((4, b""), Some((7, b"q"))),
            range((5, b"m"), None),
            range((0, b""), None),
            range((0, b""), Some((5, b"a"))),
        ] {
            let rest = without(&all, &other);
            for bucket in [0, 3, 4, 5, 6, 7, 8] {
                for key in [&b""[..], b"a", b"m", b"q", b"z"] {
                    let owners = rest.iter().chain([&other]);
                    let owners = owners.filter(|range| contains(range, bucket, key));
                    assert_eq!(owners.count(), 1, "{bucket} {key:?} beside {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_span_has_a_slab_only_when_all_of_it_is_owned() {
        let descriptor = state::ShardDescriptor {
            ranges: vec![range((2, b"k"), Some((5, b"m")))],
            ..Default::default()
        };
        let owned = |bucket, start: &'static [u8], end: Option<&'static [u8]>| {
            let span = KeySpan {
                bucket: BucketId(bucket),
                start,
                end,
            };
            slab_of_span(&descriptor, &span).is_some()
        };
        assert!(owned(3, b"", None));
        assert!(owned(2, b"k", None));
        assert!(!owned(2, b"", None));
        assert!(owned(5, b"", Some(b"m")));
        assert!(!owned(5, b"", Some(b"n")));
        assert!(!owned(5, b"", None));
        assert!(touches_bucket(&descriptor, BucketId(5)));
        assert!(!touches_bucket(&descriptor, BucketId(6)));
        assert!(!touches_bucket(&descriptor, BucketId(1)));
    }
}
