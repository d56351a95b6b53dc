//! The row of an interval of keys that has half of the bytes below it, by what the store tells of its files.
//!
//! A bisection over keys alone would get lost where keys lie unevenly: half way between `README` and
//! `logs/2026/11/23/…` lies nothing, and so it does eight bytes further on. So each step goes on from a row that
//! exists: the common start of the lowest and the highest one grows with every gap that is left behind.

use bytes::Bytes;
use granary_kv::KvError;

use crate::limits::HALVING_STEPS_MAX;
use crate::rows::{Bounds, RawRows, View};

/// The row whose bytes contain the middle one of `total`; one below it where the search was given up. `None`
/// without any row.
pub(super) fn row_at_half(
    rows: &View<'_>,
    bounds: &Bounds,
    total: u64,
) -> Result<Option<Bytes>, KvError> {
    let first = first_from(rows, bounds.clone())?;
    let (Some(mut low), Some(mut high)) = (first, rows.last_key(bounds)?) else {
        return Ok(None);
    };
    // The row that is looked for is one from `low` to `high`.
    for _ in 0..HALVING_STEPS_MAX {
        if low >= high {
            break;
        }
        let middle = between(&low, &high);
        let below = Bounds {
            start: bounds.start.clone(),
            end: Some(middle.clone()),
        };
        if rows.approximate_bytes(&below) < total.div_ceil(2) {
            low = first_from(rows, bounds.clone().from(middle))?.unwrap_or(high.clone());
        } else {
            high = rows.last_key(&below)?.unwrap_or(low.clone());
        }
    }
    Ok(Some(low))
}

/// The key of the first row within bounds. It is read with its value, and that may be inline bytes: one is enough.
pub(super) fn first_from(rows: &View<'_>, bounds: Bounds) -> Result<Option<Bytes>, KvError> {
    let row = rows.scan_raw(&bounds.start, bounds.end.as_deref()).next();
    Ok(row.transpose()?.map(|(key, _)| key))
}

/// A key above `low` and not above `high`, which is the larger one: about half way, as far as the eight bytes from the
/// first difference on tell.
fn between(low: &[u8], high: &[u8]) -> Vec<u8> {
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(&key[common..]) {
            *to = *from;
        }
        u64::from_be_bytes(bytes)
    };
    let (from, to) = (number(low), number(high));
    let middle = from + (to - from).div_ceil(2);
    if middle == to {
        return high[..high.len().min(common + 8)].to_vec();
    }
    let mut key = low[..common].to_vec();
    key.extend_from_slice(&middle.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use granary_kv::{Kv, MemoryKv, Space, WriteBatch};

    use super::*;

    #[test]
    fn a_key_between_two_others_is_above_the_lower_one() {
        for (low, high) in [
            (&b"a"[..], &b"c"[..]),
            (b"key-0000", b"key-9999"),
            (b"key", b"key\0\0\0\0\0\0\0\x09"),
            (b"key", b"key\0\0\0\0\0\0\0\0\0"),
            (b"\0", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            (b"a\xff\xff\xff\xff\xff\xff\xff\xff", b"b"),
            (b"a", b"b"),
            (b"", b"\0"),
        ] {
            let middle = between(low, high);
            assert!(low < &middle[..] && &middle[..] <= high, "{low:?} {high:?}");
        }
    }

    /// The share of the bytes below the row that was found.
    fn share_below(rows: impl IntoIterator<Item = (Vec<u8>, usize)>) -> f64 {
        let store = MemoryKv::new();
        let mut batch = WriteBatch::new();
        for (key, bytes) in rows {
            batch.put(Space::State, key, vec![7; bytes]);
        }
        store.write(batch).unwrap();
        let snapshot = store.snapshot();
        let view = View(&*snapshot);
        let all = Bounds::prefix(Vec::new());
        let total = view.approximate_bytes(&all);
        let row = row_at_half(&view, &all, total).unwrap().unwrap();
        let below = Bounds {
            end: Some(row.to_vec()),
            ..all
        };
        view.approximate_bytes(&below) as f64 / total as f64
    }

    fn numbered(prefix: &str, count: usize) -> Vec<(Vec<u8>, usize)> {
        let key = |n| format!("{prefix}{n:05}").into_bytes();
        (0..count).map(|n| (key(n), 100)).collect()
    }

    #[test]
    fn half_of_the_bytes_lie_below_however_unevenly_the_keys_do() {
        let tenants = |shares: [usize; 3]| {
            let names = ["a-tenant/x/", "m-tenant/y/", "z-tenant/z/"];
            let of = |(name, share)| numbered(name, share);
            names.into_iter().zip(shares).flat_map(of).collect()
        };
        let outlier = |key: &str| vec![(key.as_bytes().to_vec(), 100)];
        let deep = "warehouse/events.db/".to_owned() + &"dt=2026-11-23/".repeat(60);
        let cases: [(&str, Vec<_>); 9] = [
            ("one prefix", numbered("logs/2026/11/23/", 3000)),
            (
                "an outlier below",
                [outlier("README"), numbered("logs/2026/11/23/", 3000)].concat(),
            ),
            (
                "an outlier above",
                [numbered("logs/2026/11/23/", 3000), outlier("zzz")].concat(),
            ),
            (
                "outliers on both sides, and a long common start",
                [
                    outlier("."),
                    outlier("warehouse"),
                    numbered(&deep, 3000),
                    outlier("x"),
                ]
                .concat(),
            ),
            (
                "two buckets",
                [
                    numbered("\0\0\0\0\0\0\0\u{1}", 30),
                    numbered("\u{7f}\0\0\0\0\0\0\u{1}", 3000),
                ]
                .concat(),
            ),
            (
                "two buckets, the other one is larger",
                [
                    numbered("\0\0\0\0\0\0\0\u{1}", 3000),
                    numbered("\u{7f}\0\0\0\0\0\0\u{1}", 30),
                ]
                .concat(),
            ),
            ("the last tenant", tenants([600, 600, 1800])),
            ("the one in the middle", tenants([600, 1800, 600])),
            ("the first one", tenants([1800, 600, 600])),
        ];
        for (what, rows) in cases {
            let share = share_below(rows);
            assert!((0.48..=0.5).contains(&share), "{what}: {share}");
        }
    }

    #[test]
    fn the_row_that_has_most_of_the_bytes_is_found() {
        let huge = |key: &str| vec![(key.as_bytes().to_vec(), 1_000_000)];
        let share = share_below([numbered("a/", 100), huge("b"), numbered("c/", 300)].concat());
        assert!((0.005..0.02).contains(&share), "{share}");
        assert_eq!(share_below(huge("alone")), 0.0);
    }
}
