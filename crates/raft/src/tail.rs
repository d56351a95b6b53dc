//! The end of one shard's log in memory: the newest entries as they were appended, and how many
//! bytes the log has.
//!
//! Entries are applied and sent right after they were appended, so the normal path takes them from
//! here and never reads the store. It is bounded in bytes, and holds a gapless run that ends with
//! the log's last entry; what is older is read from the store.

use std::collections::VecDeque;

use crate::types::Entry;

/// Bytes of entries kept for reading, per shard.
const RECENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The newest entries.
#[derive(Default)]
pub(crate) struct Recent {
    /// Entries and their encoded lengths; consecutive indexes.
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        let index = entry.log_id.index;
        if self
            .entries
            .back()
            .is_some_and(|(last, _)| last.log_id.index + 1 != index)
        {
            *self = Self::default();
        }
        self.bytes += bytes + ENTRY_OVERHEAD_BYTES;
        self.entries.push_back((entry, bytes));
        while self.bytes > RECENT_BYTES_MAX {
            self.pop_first();
        }
    }

    fn pop_first(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes + ENTRY_OVERHEAD_BYTES;
        } else {
            self.bytes = 0;
        }
    }

    /// Forgets the entries below `index`.
    pub(crate) fn forget_below(&mut self, index: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(first, _)| first.log_id.index < index)
        {
            self.pop_first();
        }
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(last, _)| last.log_id.index >= index)
        {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes -= bytes + ENTRY_OVERHEAD_BYTES;
            }
        }
    }

    /// The entries of `start..end`, or the first ones of them up to `limit_bytes` but at least
    /// one; `None` when they are not all here.
    pub(crate) fn read(&self, start: u64, end: u64, limit_bytes: usize) -> Option<Vec<Entry>> {
        let (first, last) = (self.entries.front()?, self.entries.back()?);
        let first = first.0.log_id.index;
        if start < first || end > last.0.log_id.index + 1 {
            return None;
        }
        let from = usize::try_from(start - first).ok()?;
        let count = usize::try_from(end.saturating_sub(start)).ok()?;
        let (mut found, mut bytes) = (Vec::with_capacity(count), 0);
        for (entry, length) in self.entries.range(from..from + count) {
            if !found.is_empty() && bytes + length > limit_bytes {
                break;
            }
            bytes += length;
            found.push(entry.clone());
        }
        Some(found)
    }
}

/// Entries that are weighed together.
const MARK_BYTES: u64 = 256 * 1024;

/// A run of entries.
struct Mark {
    first: u64,
    bytes: u64,
}

/// How many bytes the log has, by runs of entries. Runs that were cut in part count in full.
#[derive(Default)]
pub(crate) struct Weight {
    marks: VecDeque<Mark>,
    bytes: u64,
}

impl Weight {
    /// Counts an entry after all others.
    pub(crate) fn push(&mut self, index: u64, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        match self.marks.back_mut() {
            Some(mark) if mark.bytes < MARK_BYTES => mark.bytes += bytes,
            _ => self.marks.push_back(Mark {
                first: index,
                bytes,
            }),
        }
    }

    /// Counts an entry before all others.
    pub(crate) fn push_older(&mut self, index: u64, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        match self.marks.front_mut() {
            Some(mark) if mark.bytes < MARK_BYTES => {
                mark.bytes += bytes;
                mark.first = index;
            }
            _ => self.marks.push_front(Mark {
                first: index,
                bytes,
            }),
        }
    }

    /// Bytes of the log's entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first index to keep so that at most `bytes` are kept, beside the newest run.
    pub(crate) fn first_within(&self, bytes: u64) -> Option<u64> {
        let mut kept = 0;
        let mut first = None;
        for mark in self.marks.iter().rev() {
            kept += mark.bytes;
            if kept > bytes && first.is_some() {
                break;
            }
            first = Some(mark.first);
        }
        first
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.marks.back().is_some_and(|mark| mark.first >= index) {
            if let Some(mark) = self.marks.pop_back() {
                self.bytes -= mark.bytes;
            }
        }
    }

    /// Forgets the runs that lie wholly below `index`; `end` is where the log ends.
    pub(crate) fn forget_below(&mut self, index: u64, end: u64) {
        loop {
            let next = self.marks.get(1).map_or(end, |mark| mark.first);
            if self.marks.is_empty() || next > index {
                return;
            }
            if let Some(mark) = self.marks.pop_front() {
                self.bytes -= mark.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogId, Payload};

    fn entry(index: u64) -> Entry {
        Entry {
            log_id: LogId::new_term_index(1, index),
            payload: Payload::Blank,
        }
    }

    fn indexes(found: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        found.map(|entries| entries.iter().map(|entry| entry.log_id.index).collect())
    }

    #[test]
    fn recent_entries_are_read_in_whole_or_not_at_all() {
        let mut recent = Recent::default();
        (10..20).for_each(|index| recent.push(entry(index), 100));
        assert_eq!(
            indexes(recent.read(12, 15, usize::MAX)),
            Some(vec![12, 13, 14])
        );
        assert_eq!(indexes(recent.read(12, 20, 250)), Some(vec![12, 13]));
        assert_eq!(
            indexes(recent.read(12, 20, 1)),
            Some(vec![12]),
            "at least one"
        );
        assert_eq!(indexes(recent.read(9, 15, usize::MAX)), None);
        assert_eq!(indexes(recent.read(15, 21, usize::MAX)), None);
        recent.truncate(18);
        recent.forget_below(12);
        assert_eq!(
            indexes(recent.read(12, 18, usize::MAX)),
            Some((12..18).collect())
        );
        assert_eq!(indexes(recent.read(11, 18, usize::MAX)), None);
        assert_eq!(indexes(recent.read(12, 19, usize::MAX)), None);
        // A gap begins anew.
        recent.push(entry(30), 100);
        assert_eq!(indexes(recent.read(17, 18, usize::MAX)), None);
        assert_eq!(indexes(recent.read(30, 31, usize::MAX)), Some(vec![30]));
        // The bound holds, and an entry above it is not kept.
        (31..200).for_each(|index| recent.push(entry(index), 100_000));
        assert!(recent.bytes <= RECENT_BYTES_MAX && recent.entries.len() > 10);
        recent.push(entry(200), RECENT_BYTES_MAX + 1);
        assert!(recent.entries.is_empty() && recent.bytes == 0);
    }

    #[test]
    fn the_log_is_weighed_by_runs() {
        let mut weight = Weight::default();
        (10..100).for_each(|index| weight.push(index, 64 * 1024));
        assert_eq!(weight.bytes(), 90 * 64 * 1024);
        let first = weight.first_within(1024 * 1024).unwrap();
        assert!((84..=86).contains(&first), "{first}");
        assert!(
            weight.first_within(0).unwrap() < 100,
            "the newest run stays"
        );
        weight.forget_below(first, 100);
        assert!(weight.bytes() <= 1024 * 1024);
        weight.truncate(first);
        assert_eq!(weight.bytes(), 0);
        assert_eq!(weight.first_within(0), None);
        (10..20)
            .rev()
            .for_each(|index| weight.push_older(index, 300_000));
        assert_eq!(weight.first_within(600_000), Some(18));
        weight.forget_below(20, 20);
        assert_eq!(weight.bytes(), 0);
    }
}
