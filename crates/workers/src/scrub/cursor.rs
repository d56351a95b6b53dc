//! Where a scrub is, in the bytes that its lease carries to a successor.
//!
//! Bytes that another version wrote, or that make no sense, mean the beginning.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use granary_types::{ChunkId, DiskId, PgId};

const FORMAT: u8 = 1;
/// Disks whose places are told; a batch of more begins again.
const DISKS_MAX: usize = 64;
const ENTRY_BYTES: usize = 8 + 4 + 16;
const HEADER_BYTES: usize = 1 + 8 + 4 + 4 + 2;
/// Stands for "no batch" and for "all groups are through".
const NONE: u32 = u32::MAX;

/// Where a pass is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// When the pass began, in milliseconds since the epoch; 0 before the first.
    pub(super) began_ms: u64,
    /// Groups before this one are through.
    pub(super) next: PgId,
    /// How far the groups from `next` on were read by whoever led before.
    pub(super) batch: Option<Place>,
}

/// How far a batch is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Groups from this one on are in no batch yet.
    pub(super) end: PgId,
    /// Disks that have not read all their groups: the group each is at, and the last chunk that it
    /// read there. Groups before it are read. `None` when there are too many of them.
    pub(super) disks: Option<BTreeMap<DiskId, (PgId, Option<ChunkId>)>>,
}

impl Cursor {
    pub(super) fn beginning_at(began_ms: u64) -> Self {
        Self {
            began_ms,
            ..Self::default()
        }
    }

    /// True when every group is through.
    pub(super) fn is_finished(&self) -> bool {
        self.next.0 == NONE
    }

    pub(super) fn finish(&mut self) {
        (self.next, self.batch) = (PgId(NONE), None);
    }

    /// The bytes; `batch` is how far the batch is that is under way. Empty before the first pass.
    pub(super) fn encode(&self, batch: Option<&Place>) -> Bytes {
        if self.began_ms == 0 {
            return Bytes::new();
        }
        let disks = batch.and_then(|place| place.disks.as_ref());
        let disks = disks.filter(|disks| disks.len() <= DISKS_MAX);
        // A batch whose places are not told begins again, and needs no mention.
        let end = batch.filter(|_| disks.is_some());
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.began_ms);
        bytes.put_u32(self.next.0);
        bytes.put_u32(end.map_or(NONE, |place| place.end.0));
        let count = disks.map_or(0, BTreeMap::len);
        bytes.put_u16(u16::try_from(count).unwrap_or(0));
        for (disk, (pg, after)) in disks.into_iter().flatten() {
            bytes.put_u64(disk.0);
            bytes.put_u32(pg.0);
            bytes.put_u128(after.map_or(0, |chunk| chunk.0));
        }
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        if header[0] != FORMAT || rest.len() % ENTRY_BYTES != 0 {
            return None;
        }
        let end = number(&header[13..17])? as u32;
        if number(&header[17..19])? as usize != rest.len() / ENTRY_BYTES {
            return None;
        }
        let entries = rest.chunks(ENTRY_BYTES).map(|entry| {
            let after = number(&entry[12..28])?;
            let after = (after != 0).then_some(ChunkId(after));
            let disk = DiskId(number(&entry[..8])? as u64);
            Some((disk, (PgId(number(&entry[8..12])? as u32), after)))
        });
        let disks: BTreeMap<_, _> = entries.collect::<Option<_>>()?;
        Some(Self {
            began_ms: number(&header[1..9])? as u64,
            next: PgId(number(&header[9..13])? as u32),
            batch: (end != NONE).then_some(Place {
                end: PgId(end),
                disks: Some(disks),
            }),
        })
    }
}

/// A big-endian number of at most 16 bytes.
fn number(bytes: &[u8]) -> Option<u128> {
    let mut wide = [0; 16];
    let at = wide.len().checked_sub(bytes.len())?;
    wide[at..].copy_from_slice(bytes);
    Some(u128::from_be_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let place = |disks: u64| Place {
            end: PgId(77),
            disks: Some(
                (1..=disks)
                    .map(|n| {
                        let after = (n % 2 == 0).then(|| ChunkId::new(PgId(9), u128::from(n)));
                        (DiskId(n), (PgId(9), after))
                    })
                    .collect(),
            ),
        };
        let cursor = |batch| Cursor {
            began_ms: 1_800_000_000_000,
            next: PgId(9),
            batch,
        };
        for batch in [None, Some(place(0)), Some(place(3)), Some(place(64))] {
            let bytes = cursor(None).encode(batch.as_ref());
            assert_eq!(Cursor::decode(&bytes), Some(cursor(batch)));
            assert_eq!(Cursor::decode(&bytes[..bytes.len() - 1]), None);
            let mut newer = bytes.to_vec();
            newer[0] = 2;
            assert_eq!(Cursor::decode(&newer), None);
        }
        // Too many to tell: the batch begins again.
        let bytes = cursor(None).encode(Some(&place(65)));
        assert_eq!(Cursor::decode(&bytes), Some(cursor(None)));
        assert!(Cursor::default().encode(None).is_empty());
        let mut finished = cursor(None);
        finished.finish();
        let read = Cursor::decode(&finished.encode(None)).unwrap();
        assert!(read.is_finished() && read == finished);
    }
}
