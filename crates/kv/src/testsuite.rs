//! What every [`Kv`] must do, as functions that each implementation calls from its tests.
//!
//! They panic with a sentence when the store does not conform. Randomness comes from a small
//! generator whose seed is part of every message.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Direction, Kv, KvRead, Space, WriteBatch};

/// Checks everything that does not need a restart. `empty` makes a fresh, empty store.
pub fn conforms(empty: &dyn Fn() -> Arc<dyn Kv>) {
    spaces_are_apart(empty().as_ref());
    a_batch_applies_in_order(empty().as_ref());
    ranges_are_half_open(empty().as_ref());
    snapshots_do_not_move(empty().as_ref());
    a_scan_sees_one_state(empty().as_ref());
    values_of_any_size(empty().as_ref());
    for seed in 1..=8 {
        behaves_like_a_map(empty().as_ref(), seed);
    }
}

/// Checks durability. `open` opens the one store, `crash` loses power under it (every handle was
/// dropped before).
pub fn survives(open: &dyn Fn() -> Arc<dyn Kv>, crash: &dyn Fn()) {
    let kv = open();
    put(kv.as_ref(), Space::State, b"synced", b"1");
    put(kv.as_ref(), Space::Log, b"synced", b"1");
    sync(kv.as_ref());
    for number in 0..3u8 {
        let mut batch = WriteBatch::new();
        batch.put(Space::State, vec![number], vec![number]);
        batch.put(Space::Log, vec![number], vec![number]);
        kv.write(batch).expect("writing works");
    }
    drop(kv);
    crash();
    let kv = open();
    for space in [Space::State, Space::Log] {
        let value = get(kv.as_ref(), space, b"synced");
        assert_eq!(
            value,
            Some(Bytes::from_static(b"1")),
            "a synced write is gone from {space:?}"
        );
    }
    let survivors = |space| {
        let left = all(kv.as_ref(), space)
            .into_iter()
            .filter(|(key, _)| key.len() == 1);
        left.map(|(key, _)| key[0]).collect::<Vec<_>>()
    };
    let (state, log) = (survivors(Space::State), survivors(Space::Log));
    assert_eq!(state, log, "a batch survived in part");
    let prefix: Vec<u8> = (0..3).take(state.len()).collect();
    assert_eq!(
        state, prefix,
        "what survived is not a prefix of what was written"
    );
}

fn put(kv: &dyn Kv, space: Space, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(space, key.to_vec(), value.to_vec());
    kv.write(batch).expect("writing works");
}

fn get(kv: &dyn KvRead, space: Space, key: &[u8]) -> Option<Bytes> {
    kv.get(space, key).expect("reading works")
}

fn sync(kv: &dyn Kv) {
    kv.sync().expect("syncing works");
}

type Entries = Vec<(Bytes, Bytes)>;

fn scan(
    kv: &dyn KvRead,
    space: Space,
    start: &[u8],
    end: Option<&[u8]>,
    direction: Direction,
) -> Entries {
    let entries = kv.scan(space, start, end, direction);
    entries
        .map(|entry| entry.expect("scanning works"))
        .collect()
}

fn all(kv: &dyn KvRead, space: Space) -> Entries {
    scan(kv, space, b"", None, Direction::Forward)
}

fn keys(entries: Entries) -> Vec<Bytes> {
    entries.into_iter().map(|(key, _)| key).collect()
}

fn spaces_are_apart(kv: &dyn Kv) {
    for space in Space::ALL {
        put(kv, space, b"key", space.name().as_bytes());
    }
    let mut batch = WriteBatch::new();
    batch.delete(Space::Log, &b"key"[..]);
    kv.write(batch).expect("writing works");
    assert_eq!(
        get(kv, Space::Log, b"key"),
        None,
        "a deleted key is still there"
    );
    for space in [Space::State, Space::Index] {
        let value = get(kv, space, b"key");
        let own = Some(Bytes::from_static(space.name().as_bytes()));
        assert_eq!(value, own, "spaces share keys");
    }
}

fn a_batch_applies_in_order(kv: &dyn Kv) {
    let mut batch = WriteBatch::new();
    batch.put(Space::State, &b"a"[..], &b"1"[..]);
    batch.delete_range(Space::State, &b"a"[..], &b"c"[..]);
    batch.put(Space::State, &b"b"[..], &b"2"[..]);
    batch.put(Space::State, &b"c"[..], &b"3"[..]);
    batch.delete(Space::State, &b"c"[..]);
    batch.put(Space::State, &b"d"[..], &b""[..]);
    kv.write(batch).expect("writing works");
    assert_eq!(
        keys(all(kv, Space::State)),
        ["b", "d"],
        "a batch is not applied in order"
    );
    let empty = get(kv, Space::State, b"d");
    assert_eq!(
        empty,
        Some(Bytes::new()),
        "an empty value is not the same as none"
    );
    kv.write(WriteBatch::new())
        .expect("an empty batch can be written");
}

fn ranges_are_half_open(kv: &dyn Kv) {
    for key in ["a", "b", "b\0", "c", "\u{ff}"] {
        put(kv, Space::State, key.as_bytes(), b"");
    }
    let check = |start: &str, end: Option<&str>, expected: &[&str]| {
        let end = end.map(str::as_bytes);
        let forward = keys(scan(
            kv,
            Space::State,
            start.as_bytes(),
            end,
            Direction::Forward,
        ));
        assert_eq!(forward, expected, "forward from {start:?} to {end:?}");
        let mut backward = keys(scan(
            kv,
            Space::State,
            start.as_bytes(),
            end,
            Direction::Backward,
        ));
        backward.reverse();
        assert_eq!(backward, expected, "backward from {start:?} to {end:?}");
    };
    check("", None, &["a", "b", "b\0", "c", "\u{ff}"]);
    check("b", Some("c"), &["b", "b\0"]);
    check("b\0", None, &["b\0", "c", "\u{ff}"]);
    check("", Some("b"), &["a"]);
    check("c", Some("b"), &[]);
    check("b", Some("b"), &[]);
    check("d", Some("e"), &[]);
    let mut batch = WriteBatch::new();
    batch.delete_range(Space::State, &b"c"[..], &b"a"[..]);
    batch.delete_range(Space::State, &b"b"[..], &b"c"[..]);
    kv.write(batch).expect("an inverted range deletes nothing");
    check("", None, &["a", "c", "\u{ff}"]);
}

fn snapshots_do_not_move(kv: &dyn Kv) {
    put(kv, Space::State, b"a", b"1");
    let before = kv.snapshot();
    put(kv, Space::State, b"a", b"2");
    put(kv, Space::State, b"b", b"2");
    let during = kv.snapshot();
    let mut batch = WriteBatch::new();
    batch.delete_range(Space::State, &b""[..], &b"z"[..]);
    kv.write(batch).expect("writing works");
    sync(kv);
    // A snapshot belongs to whoever holds it: it goes to other threads and is shared there.
    let reader = Arc::clone(&before);
    let seen = std::thread::spawn(move || all(reader.as_ref(), Space::State)).join();
    let old: Entries = vec![(Bytes::from_static(b"a"), Bytes::from_static(b"1"))];
    assert_eq!(
        seen.expect("reading on another thread works"),
        old,
        "a snapshot moved"
    );
    assert_eq!(
        keys(all(during.as_ref(), Space::State)),
        ["a", "b"],
        "a snapshot moved"
    );
    let second = get(during.as_ref(), Space::State, b"a");
    assert_eq!(second, Some(Bytes::from_static(b"2")), "a snapshot moved");
    assert!(
        all(kv, Space::State).is_empty(),
        "the newest state is not what was written"
    );
}

fn a_scan_sees_one_state(kv: &dyn Kv) {
    for number in 0..10u8 {
        put(kv, Space::State, &[number], b"old");
    }
    let mut entries = kv.scan(Space::State, b"", None, Direction::Forward);
    let first = entries
        .next()
        .expect("ten entries")
        .expect("scanning works");
    for number in 0..20u8 {
        put(kv, Space::State, &[number], b"new");
    }
    let rest: Entries = entries
        .map(|entry| entry.expect("scanning works"))
        .collect();
    assert_eq!(
        rest.len(),
        9,
        "a scan shows what was written after it began"
    );
    let old = std::iter::once(first)
        .chain(rest)
        .all(|(_, value)| value.as_ref() == b"old");
    assert!(old, "a scan shows what was written after it began");
}

fn values_of_any_size(kv: &dyn Kv) {
    let large: Bytes = (0..2 * 1024 * 1024u32).map(|at| (at % 251) as u8).collect();
    let mut batch = WriteBatch::new();
    batch.put(Space::Log, vec![0; 1000], large.clone());
    kv.write(batch).expect("writing works");
    sync(kv);
    assert_eq!(
        get(kv, Space::Log, &[0; 1000]),
        Some(large),
        "a large value changed"
    );
}

/// Random batches against a sorted map.
fn behaves_like_a_map(kv: &dyn Kv, seed: u64) {
    let mut random = Random(seed);
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for step in 0..200 {
        let mut batch = WriteBatch::new();
        for _ in 0..random.below(8) {
            let (key, other) = (random.key(), random.key());
            match random.below(10) {
                0..6 => {
                    let value = random.key();
                    map.insert(key.clone(), value.clone());
                    batch.put(Space::Index, key, value);
                }
                6..9 => {
                    map.remove(&key);
                    batch.delete(Space::Index, key);
                }
                _ => {
                    map.retain(|k, _| *k < key || *k >= other);
                    batch.delete_range(Space::Index, key, other);
                }
            }
        }
        kv.write(batch).expect("writing works");
        if random.below(10) == 0 {
            sync(kv);
        }
        let (start, end) = (random.key(), random.key());
        let expected = || map.iter().filter(|(key, _)| **key >= start && **key < end);
        let expected: Entries = expected()
            .map(|(k, v)| (k.clone().into(), v.clone().into()))
            .collect();
        let found = scan(kv, Space::Index, &start, Some(&end), Direction::Forward);
        assert_eq!(
            found, expected,
            "seed {seed}, step {step}: a scan differs from the map"
        );
        let key = random.key();
        let value = map.get(&key).cloned().map(Bytes::from);
        let found = get(kv, Space::Index, &key);
        assert_eq!(
            found, value,
            "seed {seed}, step {step}: key {key:?} differs from the map"
        );
    }
}

/// xorshift64*: enough to vary keys, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One or two bytes, so that keys repeat and are prefixes of each other.
    fn key(&mut self) -> Vec<u8> {
        let length = 1 + self.below(2);
        (0..length).map(|_| (self.below(12) * 23) as u8).collect()
    }
}
