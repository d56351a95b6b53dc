//! The objects of a run: their keys, the bodies they were stored with, and what has to be deleted at the end.
//!
//! Bounded: 24 bytes for each key.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::content;

/// Objects of one size under one folder. Their keys sort as their indexes do.
pub(crate) struct ObjectSet {
    /// What their keys begin with.
    folder: String,
    pub(crate) size_bytes: u64,
    /// The number of the body that the first one is stored with; the others follow.
    first_number: AtomicU64,
    keys: Vec<Key>,
}

#[derive(Default)]
struct Key {
    /// Something may be stored under it.
    may_exist: AtomicBool,
    /// A PUT of its body was answered.
    stored: AtomicBool,
    /// A digest of the ETag that the PUT was answered with.
    etag: AtomicU64,
    /// The CRC-64 of what was sent.
    crc64: AtomicU64,
}

/// What is known of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    etag: u64,
    pub(crate) crc64: u64,
}

impl Known {
    /// Whether this is its ETag, or none was told.
    pub(crate) fn has_etag(&self, etag: &[u8]) -> bool {
        [content::crc64(etag), content::crc64(b"")].contains(&self.etag)
    }
}

impl ObjectSet {
    pub(crate) fn new(folder: String, size_bytes: u64, first_number: u64, keys: usize) -> Self {
        Self {
            folder,
            size_bytes,
            first_number: AtomicU64::new(first_number),
            keys: (0..keys).map(|_| Key::default()).collect(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn folder(&self) -> &str {
        &self.folder
    }

    pub(crate) fn key(&self, index: usize) -> String {
        format!("{}{index:08}", self.folder)
    }

    /// The number of the body that the object is stored with.
    pub(crate) fn number(&self, index: usize) -> u64 {
        self.first_number.load(Ordering::Relaxed) + index as u64
    }

    /// What is stored from now on has other bodies. Not for sets that are read.
    pub(crate) fn renumber(&self, first_number: u64) {
        self.first_number.store(first_number, Ordering::Relaxed);
    }

    /// A PUT of it begins.
    pub(crate) fn note_begun(&self, index: usize) {
        self.keys[index].may_exist.store(true, Ordering::Relaxed);
    }

    /// A PUT of its body was answered.
    pub(crate) fn note_stored(&self, index: usize, etag: &[u8], crc64: u64) {
        let key = &self.keys[index];
        key.etag.store(content::crc64(etag), Ordering::Relaxed);
        key.crc64.store(crc64, Ordering::Relaxed);
        key.stored.store(true, Ordering::Release);
    }

    /// It was deleted.
    pub(crate) fn note_deleted(&self, index: usize) {
        self.keys[index].stored.store(false, Ordering::Relaxed);
        self.keys[index].may_exist.store(false, Ordering::Relaxed);
    }

    /// What is known of it, if a PUT of its body was answered.
    pub(crate) fn known(&self, index: usize) -> Option<Known> {
        let key = &self.keys[index];
        key.stored.load(Ordering::Acquire).then(|| Known {
            etag: key.etag.load(Ordering::Relaxed),
            crc64: key.crc64.load(Ordering::Relaxed),
        })
    }

    /// Whether something may be stored under its key.
    pub(crate) fn may_exist(&self, index: usize) -> bool {
        self.keys[index].may_exist.load(Ordering::Relaxed)
    }

    /// How many of them are known to be stored.
    pub(crate) fn count_stored(&self) -> usize {
        (0..self.len())
            .filter(|index| self.known(*index).is_some())
            .count()
    }

    /// How many of them may be there.
    pub(crate) fn count_existing(&self) -> usize {
        (0..self.len())
            .filter(|index| self.may_exist(*index))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_indexes_do_and_what_is_known_of_them_is_kept() {
        let set = ObjectSet::new("p/".to_owned(), 4096, 100, 12);
        let keys: Vec<_> = (0..set.len()).map(|index| set.key(index)).collect();
        assert!(keys.is_sorted());
        assert_eq!((keys[11].as_str(), set.number(11)), ("p/00000011", 111));
        set.note_begun(3);
        set.note_begun(4);
        set.note_stored(4, b"\"etag\"", 9);
        assert_eq!((set.count_existing(), set.known(3)), (2, None));
        let known = set.known(4).unwrap();
        assert_eq!(known.crc64, 9);
        assert!(known.has_etag(b"\"etag\"") && !known.has_etag(b"\"other\""));
        set.note_deleted(4);
        assert_eq!((set.count_existing(), set.known(4)), (1, None));
    }

    #[test]
    fn a_key_takes_what_the_help_says() {
        assert_eq!(size_of::<Key>(), 24);
    }
}
