//! One file: what is durable, what is visible, and what happened in between.

use std::io;

use rand::RngExt;
use rand::rngs::StdRng;

use super::{CrashStyle, SECTOR_BYTES, next_bool};

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn write_into(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (start, end) = (index(offset), index(offset) + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write_into(content, *offset, bytes),
            Self::SetLen(length) => content.resize(index(*length), 0),
        }
    }

    /// The pieces of a write that lie in one sector each.
    fn sectors(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
        let mut pieces = Vec::new();
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let room = index(SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
            let (piece, more) = rest.split_at(room);
            pieces.push((at, piece));
            at += room as u64;
            rest = more;
        }
        pieces
    }
}

impl Inode {
    pub(super) fn length(&self) -> u64 {
        self.visible.len() as u64
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let start = index(offset).min(self.visible.len());
        let end = start.saturating_add(length).min(self.visible.len());
        self.visible[start..end].to_vec()
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.change(Change::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }

    pub(super) fn set_len(&mut self, length: u64) {
        self.change(Change::SetLen(length));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync failed: what is visible and was not durable never will be, unless written again.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// What is neither durable nor to be written yet is not seen any more.
    pub(super) fn drop_cache(&mut self) {
        self.visible.clone_from(&self.durable);
        for change in &self.unsynced {
            change.apply(&mut self.visible);
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let mask = 1 << (bit % 8);
        match self.visible.get_mut(index(offset)) {
            Some(byte) => *byte ^= mask,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        if let Some(byte) = self.durable.get_mut(index(offset)) {
            *byte ^= mask;
        }
        Ok(())
    }

    /// Flips a durable bit; what is visible stays as it is until the cache is dropped.
    pub(super) fn flip_durable_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        match self.durable.get_mut(index(offset)) {
            Some(byte) => *byte ^= 1 << (bit % 8),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    pub(super) fn after_crash(&self, rng: &mut StdRng, style: CrashStyle) -> Self {
        let mut left = self.durable.clone();
        match style {
            CrashStyle::LoseAll => {}
            CrashStyle::KeepAll => left = self.visible.clone(),
            CrashStyle::Torn => {
                for change in &self.unsynced {
                    Self::tear(&mut left, change, rng);
                }
            }
            CrashStyle::Prefix => {
                let kept = rng.random_range(0..=self.unsynced.len());
                for change in self.unsynced.iter().take(kept) {
                    change.apply(&mut left);
                }
                if let Some(Change::Write { offset, bytes }) = self.unsynced.get(kept) {
                    let pieces = Change::sectors(*offset, bytes);
                    let whole = rng.random_range(0..=pieces.len());
                    for (at, piece) in pieces.into_iter().take(whole) {
                        write_into(&mut left, at, piece);
                    }
                }
            }
        }
        Self {
            visible: left.clone(),
            durable: left,
            unsynced: Vec::new(),
        }
    }

    /// Whole, not at all, or some sectors of it.
    fn tear(left: &mut Vec<u8>, change: &Change, rng: &mut StdRng) {
        match (rng.random_range(0..4u8), change) {
            (0, _) => {}
            (1, change) => change.apply(left),
            (_, Change::SetLen(_)) => {
                if next_bool(rng) {
                    change.apply(left);
                }
            }
            (_, Change::Write { offset, bytes }) => {
                for (at, piece) in Change::sectors(*offset, bytes) {
                    if next_bool(rng) {
                        write_into(left, at, piece);
                    }
                }
            }
        }
    }
}
