//! Keys of what stands in directories: in a bucket whose keys are paths, the `key` of a row is not
//! the path but `0xff · directory id (u64, big endian) · name`. No object key begins with that byte,
//! because it is UTF-8: such a key is known for what it is wherever it stands.
//!
//! Rows that go by an object id (inline bytes) stand at the bucket's first position instead, so
//! that renaming an object moves one row, whatever it has of them.

use bytes::Bytes;

/// What every key of an entry begins with.
const ENTRY: u8 = 0xff;
const ID_BYTES: usize = 8;

/// A name in a directory; of a directory it ends with the slash that paths go on behind, so that
/// rows sort as paths do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'k> {
    /// The directory it stands in.
    pub(crate) directory: u64,
    /// The name; empty for what all keys of the directory begin with.
    pub(crate) name: &'k [u8],
}

impl<'k> Entry<'k> {
    /// Reads a key; `None` when it is not one of an entry.
    pub(crate) fn read(key: &'k [u8]) -> Option<Self> {
        let (id, name) = key
            .strip_prefix(&[ENTRY])?
            .split_first_chunk::<ID_BYTES>()?;
        Some(Self {
            directory: u64::from_be_bytes(*id),
            name,
        })
    }

    /// The key.
    pub(crate) fn key(&self) -> Bytes {
        let id = self.directory.to_be_bytes();
        Bytes::from([&[ENTRY], &id[..], self.name].concat())
    }
}

/// The position of rows that go by an object id and not by a name: the key itself where keys are
/// not paths.
pub(crate) fn anchor(key: &Bytes) -> Bytes {
    match Entry::read(key) {
        Some(_) => Bytes::new(),
        None => key.clone(),
    }
}

/// True when an object id that is held at one key may be used at the other: an entry may be renamed
/// between two steps of a write or a read, another key may not.
pub(crate) fn same_holder(holder: &Bytes, key: &Bytes) -> bool {
    holder == key || Entry::read(holder).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_bytes() {
        let entry = Entry {
            directory: 0x0102,
            name: b"k/",
        };
        assert_eq!(hex::encode(entry.key()), "ff00000000000001026b2f");
        assert_eq!(Entry::read(&entry.key()), Some(entry));
        let path = Bytes::from_static("\u{f8ff}k".as_bytes());
        assert_eq!(Entry::read(&path), None);
        assert_eq!(anchor(&path), path);
        assert_eq!(anchor(&entry.key()), Bytes::new());
        assert_eq!(Entry::read(b"\xff\0\0"), None);
    }
}
