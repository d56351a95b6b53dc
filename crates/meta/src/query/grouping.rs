//! What listings share: prefix and delimiter, and where to go on in the key space. Groups are
//! passed over by seeking behind them, never by reading their members.

use granary_kv::prefix_end;
use granary_types::SlabId;

use crate::keyspace::{KeyField, Kind, escape, kind_prefix};
use crate::limits::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, ROWS_PER_PAGE_MAX};
use crate::ownership::{KeySpan, span_bounds};
use crate::rows::Bounds;

/// A span of keys with a prefix, grouped by a delimiter, in one kind of rows.
pub(super) struct Grouping<'q> {
    slab: SlabId,
    kind: Kind,
    span: KeySpan<'q>,
    prefix: &'q [u8],
    delimiter: &'q [u8],
}

impl<'q> Grouping<'q> {
    pub(super) fn new(
        slab: SlabId,
        kind: Kind,
        span: KeySpan<'q>,
        prefix: &'q [u8],
        delimiter: &'q [u8],
    ) -> Self {
        Self {
            slab,
            kind,
            span,
            prefix,
            delimiter,
        }
    }

    fn begins_with(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = kind_prefix(self.slab, self.kind);
        self.span.bucket.write(&mut out);
        escape(bytes, &mut out);
        out
    }

    /// Every row of the listing.
    pub(super) fn bounds(&self) -> Bounds {
        let span = span_bounds(self.slab, self.kind, &self.span);
        let with_prefix = Bounds::prefix(self.begins_with(self.prefix));
        let end = match (span.end, with_prefix.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let start = span.start.max(with_prefix.start);
        Bounds { start, end }
    }

    /// The paths of the listing in a bucket with directories: the first that may be in it, after
    /// `marker` unless that is empty, and the first behind it.
    pub(super) fn paths(&self, marker: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let after = match marker {
            [] => Vec::new(),
            group if self.group_of(group) == Some(group) => behind_group(group),
            path => [path, &[0]].concat(),
        };
        let first = self.prefix.max(self.span.start).max(&after).to_vec();
        let end = match (self.span.end, prefix_end(self.prefix)) {
            (Some(a), Some(b)) => Some(b.min(a.to_vec())),
            (a, b) => a.map(<[u8]>::to_vec).or(b),
        };
        (first, end)
    }

    /// Where the rows after `name` begin: after the group when it is one, otherwise after the key.
    pub(super) fn after(&self, name: &[u8]) -> Vec<u8> {
        if self.group_of(name) == Some(name) {
            self.after_group(name)
        } else {
            self.after_key(name)
        }
    }

    /// Where the rows after every key of a group begin.
    pub(super) fn after_group(&self, group: &[u8]) -> Vec<u8> {
        let all = Bounds::prefix(self.begins_with(group));
        // A slab number ends every key prefix below 0xff..ff: there is always a later key.
        all.end.unwrap_or(all.start)
    }

    /// Where the rows of keys after `key` begin.
    pub(super) fn after_key(&self, key: &[u8]) -> Vec<u8> {
        let mut own = self.begins_with(key);
        own.extend_from_slice(&[0x00, 0x02]);
        own
    }

    /// Where the rows of `key` begin.
    pub(super) fn at_key(&self, key: &[u8]) -> Vec<u8> {
        let mut own = self.begins_with(key);
        own.extend_from_slice(&[0x00, 0x01]);
        own
    }

    /// The group a key is shown as: up to the first delimiter after the prefix.
    pub(super) fn group_of<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let rest = key.strip_prefix(self.prefix)?;
        if self.delimiter.is_empty() || rest.len() < self.delimiter.len() {
            return None;
        }
        let found = rest
            .windows(self.delimiter.len())
            .position(|window| window == self.delimiter)?;
        key.get(..self.prefix.len() + found + self.delimiter.len())
    }
}

/// The first path behind every one of a group.
pub(super) fn behind_group(group: &[u8]) -> Vec<u8> {
    // Only bytes 0xff have no end, and they are no group.
    prefix_end(group).unwrap_or_else(|| [group, &[0]].concat())
}

/// What one page may still cost.
pub(super) struct PageBudget {
    entries: usize,
    bytes: usize,
    rows: usize,
}

impl PageBudget {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            entries: super::page_limit(limit, PAGE_ENTRIES_MAX),
            bytes: PAGE_BYTES_MAX,
            rows: ROWS_PER_PAGE_MAX,
        }
    }

    /// Accounts for a row that was read; false when no more may be read.
    pub(super) fn read_row(&mut self) -> bool {
        let left = self.rows > 0;
        self.rows = self.rows.saturating_sub(1);
        left
    }

    /// True when nothing more fits.
    pub(super) fn is_full(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    /// Accounts for an entry.
    pub(super) fn add(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use granary_types::BucketId;

    use super::*;

    #[test]
    fn groups_end_with_the_first_delimiter_after_the_prefix() {
        let span = KeySpan {
            bucket: BucketId(1),
            start: b"",
            end: None,
        };
        let group = |prefix: &'static [u8], delimiter: &'static [u8], key: &'static [u8]| {
            Grouping::new(SlabId(1), Kind::Head, span, prefix, delimiter).group_of(key)
        };
        assert_eq!(group(b"", b"/", b"a/b/c"), Some(&b"a/"[..]));
        assert_eq!(group(b"a/", b"/", b"a/b/c"), Some(&b"a/b/"[..]));
        assert_eq!(group(b"a/b/c", b"/", b"a/b/c"), None);
        assert_eq!(group(b"", b"", b"a/b"), None);
        assert_eq!(group(b"", b"--", b"a-b--c"), Some(&b"a-b--"[..]));
        assert_eq!(group(b"x", b"/", b"a/"), None);
    }
}
