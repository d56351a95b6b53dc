//! MeasureRanges: how large the shard's ranges are, and where a large one would be split.
//!
//! Counted are the rows that stand by position: heads, versions, inline bytes, uploads and parts. What stands by
//! object id is small beside them, and in no order that a split could follow. The store says how large an interval of
//! keys is without reading it; what it has written lately is missing there, so where little is asked for, some rows
//! are read too. The split point is where half of the bytes lie below, always at the first row of a key: all rows of a
//! position stay on one side.

use std::collections::BTreeMap;

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::BucketId;

use super::{Answer, QueryError, ShardView};
use crate::keyspace::{KeyField, Kind};
use crate::limits::{BYTES_MEASURED_MAX, MIDDLE_STEPS_MAX, RANGES_MEASURED_MAX, ROWS_MEASURED_MAX};
use crate::ownership::{contains, positional_bounds, start_of};
use crate::rows::{Bounds, RawRows};

/// Slab and kind stand before the position in a row's key.
const PREFIX_BYTES: usize = 5;

type Position = (u64, Bytes);

impl Answer for pb::MeasureRanges {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let ranges = shard.descriptor.ranges.iter().take(RANGES_MEASURED_MAX);
        let sizes = ranges.map(|range| measure(shard, range, self.at_least));
        Ok(Reply::RangeSizes(pb::RangeSizes {
            ranges: sizes.collect::<Result<_, _>>()?,
        }))
    }
}

fn measure(
    shard: &ShardView<'_>,
    range: &state::Range,
    at_least: u64,
) -> Result<pb::RangeSize, QueryError> {
    let kinds = Kind::POSITIONAL.map(|kind| positional_bounds(range, kind));
    let stored = kinds
        .each_ref()
        .map(|bounds| shard.rows.approximate_bytes(bounds));
    let mut size = pb::RangeSize {
        range: Some(range.clone()),
        bytes: stored.iter().sum(),
        ..Default::default()
    };
    let mut point = None;
    if size.bytes < at_least && at_least <= BYTES_MEASURED_MAX {
        let read = read_some(shard, &kinds)?;
        size.bytes = size.bytes.max(read.values().sum());
        if size.bytes >= at_least
            && let Some(near) = middle_of_rows(read)
        {
            point = split_point(shard, range, near)?;
        }
    } else if size.bytes >= at_least {
        let mut largest: Vec<(Kind, u64)> = Kind::POSITIONAL.into_iter().zip(stored).collect();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        for (kind, bytes) in largest {
            // One of another kind is better than none: where one key has all of the largest.
            if point.is_none()
                && bytes > 0
                && let Some(near) = middle_of_files(shard, range, kind, bytes)?
            {
                point = split_point(shard, range, near)?;
            }
        }
    }
    if let Some((bucket, key)) = point {
        (size.can_split, size.split_bucket, size.split_key) = (true, bucket, key);
    }
    Ok(size)
}

/// Bytes by position, of the first rows of each kind.
fn read_some(
    shard: &ShardView<'_>,
    kinds: &[Bounds],
) -> Result<BTreeMap<Position, u64>, QueryError> {
    let mut read: BTreeMap<Position, u64> = BTreeMap::new();
    for bounds in kinds {
        let mut left = BYTES_MEASURED_MAX;
        let rows = shard.rows.scan_raw(&bounds.start, bounds.end.as_deref());
        for row in rows.take(ROWS_MEASURED_MAX) {
            let (key, value) = row?;
            let bytes = (key.len() + value.len()) as u64;
            *read.entry(position_of(&key)?).or_default() += bytes;
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
    }
    Ok(read)
}

/// The first position with half of the bytes below it, but not the very first one.
fn middle_of_rows(read: BTreeMap<Position, u64>) -> Option<Position> {
    let half = read.values().sum::<u64>() / 2;
    let mut below = 0;
    let mut last = None;
    for (n, (position, bytes)) in read.into_iter().enumerate() {
        if n > 0 {
            last = Some(position);
            if below >= half {
                break;
            }
        }
        below += bytes;
    }
    last
}

/// The same by what the store says of the rows of one kind.
fn middle_of_files(
    shard: &ShardView<'_>,
    range: &state::Range,
    kind: Kind,
    total: u64,
) -> Result<Option<Position>, QueryError> {
    let bounds = &positional_bounds(range, kind);
    let first = shard
        .rows
        .scan_raw(&bounds.start, bounds.end.as_deref())
        .next();
    let (Some(first), Some(last)) = (first, shard.rows.last_key(bounds)?) else {
        return Ok(None);
    };
    let (first, _) = first?;
    let (mut low, mut high) = (first.to_vec(), last.to_vec());
    for _ in 0..MIDDLE_STEPS_MAX {
        let Some(middle) = between(&low, &high) else {
            break;
        };
        let below = Bounds {
            start: bounds.start.clone(),
            end: Some(middle.clone()),
        };
        if shard.rows.approximate_bytes(&below) < total / 2 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let lowest = position_of(&first)?;
    let behind_lowest = {
        let (bucket, key) = &lowest;
        let next = state::Range {
            start_bucket: *bucket,
            start_key: [&key[..], &[0]].concat().into(),
            ..range.clone()
        };
        positional_bounds(&next, kind).start
    };
    // A row is read with its value, and that may be inline bytes: one is enough.
    let from = high.max(behind_lowest);
    let row = shard.rows.scan_raw(&from, bounds.end.as_deref()).next();
    let position = row.map(|row| position_of(&row?.0)).transpose();
    Ok(position?)
}

/// A key between two others, about half way as far as the first bytes that differ tell; `None` when they
/// are next to each other.
fn between(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(&key[common..]) {
            *to = *from;
        }
        u64::from_be_bytes(bytes)
    };
    let (from, to) = (number(low), number(high));
    let half = to.checked_sub(from)? / 2;
    if half == 0 {
        return None;
    }
    let mut middle = low[..common].to_vec();
    middle.extend_from_slice(&(from + half).to_be_bytes());
    Some(middle)
}

fn position_of(key: &[u8]) -> Result<Position, StateMachineError> {
    let read = || {
        let mut fields = key.get(PREFIX_BYTES..)?;
        Some((u64::read(&mut fields)?, Bytes::read(&mut fields)?))
    };
    read().ok_or_else(|| StateMachineError::Corrupt {
        what: "a key of the metadata",
        reason: "it has no position".to_owned(),
    })
}

/// Where the range can be split near a position: a bucket with directories stays whole.
fn split_point(
    shard: &ShardView<'_>,
    range: &state::Range,
    near: Position,
) -> Result<Option<Position>, QueryError> {
    let (bucket, _) = near;
    let view = shard.view(BucketId(bucket))?;
    let whole = view.is_some_and(|view| view.hierarchical);
    let points = match whole {
        false => vec![near],
        true => vec![(bucket, Bytes::new()), (bucket + 1, Bytes::new())],
    };
    let inside =
        |at: &Position| start_of(range) < (at.0, at.1.as_ref()) && contains(range, at.0, &at.1);
    let mut found = points.into_iter().filter(inside);
    Ok(match whole {
        false => found.next(),
        // Only where something lies on both sides.
        true => found.find(|at| has_rows(shard, range, at)),
    })
}

fn has_rows(shard: &ShardView<'_>, range: &state::Range, at: &Position) -> bool {
    let halves = [
        state::Range {
            bounded: true,
            end_bucket: at.0,
            end_key: at.1.clone(),
            ..range.clone()
        },
        state::Range {
            start_bucket: at.0,
            start_key: at.1.clone(),
            ..range.clone()
        },
    ];
    halves.iter().all(|half| {
        let bounds = positional_bounds(half, Kind::Head);
        let mut rows = shard.rows.scan_raw(&bounds.start, bounds.end.as_deref());
        rows.next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_two_keys_lies_between_them() {
        for (low, high) in [
            (&b"a"[..], &b"c"[..]),
            (b"key-0000", b"key-9999"),
            (b"key", b"key\0\0\0\0\0\0\0\x09"),
            (b"\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            let middle = between(low, high).unwrap();
            assert!(low < &middle[..] && &middle[..] <= high, "{low:?} {high:?}");
        }
        assert_eq!(between(b"a", b"a"), None);
        assert_eq!(between(b"a\xff\xff\xff\xff\xff\xff\xff", b"b"), None);
    }

    #[test]
    fn half_of_the_bytes_lie_below_the_middle_and_never_none() {
        let of = |sizes: &[u64]| {
            let rows = sizes.iter().enumerate();
            let rows = rows.map(|(n, bytes)| ((n as u64, Bytes::new()), *bytes));
            middle_of_rows(rows.collect()).map(|(n, _)| n)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[9]), None);
        assert_eq!(of(&[1, 1, 1, 1]), Some(2));
        assert_eq!(of(&[9, 1, 1]), Some(1));
        assert_eq!(of(&[1, 1, 9]), Some(2));
    }
}
