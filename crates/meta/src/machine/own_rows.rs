//! Every row that belongs to a shard, in steps of bounded size: for snapshots, and to clear what a
//! snapshot replaces.
//!
//! Of the kinds that are not in the order of positions (deletions, owner rows) every shard that
//! shares the slab has some, and all of them have to be looked at: a step looks at a bounded number
//! of rows, own or not, so it may find none. The rows that depend on an `Owner` row come before it:
//! whoever deletes in this order and is interrupted finds the rest again.

use std::collections::VecDeque;

use granary_kv::Entry;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::SlabId;

use crate::apply::slab_bounds;
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::owner::OwnerKey;
use crate::keyspace::{KeyField, Kind, RowKey, decode_value, kind_prefix};
use crate::ownership::{contains, object_bounds, positional_bounds, timed_bounds};
use crate::rows::{Bounds, RawRows, View};

/// Rows, own or others', that one step looks at.
const LOOKS_PER_STEP: usize = 8192;

/// What is still to be read.
enum Section {
    /// Everything within bounds.
    Plain(Bounds),
    /// A timed kind: in each minute the rows of a range.
    Timed(state::Range, Kind, Bounds),
    /// The deletions and owner rows of a slab whose position lies in a range of it.
    Deletions(SlabId, Bounds),
    Owners(SlabId, Bounds),
    /// One row.
    One(Entry),
}

/// Every row of a shard.
pub(super) struct OwnRows {
    ranges: Vec<state::Range>,
    sections: VecDeque<Section>,
}

impl OwnRows {
    /// The rows in a home slab and in ranges.
    pub(super) fn new(home: SlabId, ranges: &[state::Range]) -> Self {
        let mut all = Self::in_ranges(ranges);
        all.sections.push_front(Section::Plain(slab_bounds(home)));
        all
    }

    /// The rows in ranges only.
    pub(super) fn in_ranges(ranges: &[state::Range]) -> Self {
        let mut sections = VecDeque::new();
        let mut slabs: Vec<_> = ranges.iter().map(|range| SlabId(range.slab)).collect();
        slabs.sort_unstable();
        slabs.dedup();
        for range in ranges {
            for kind in Kind::POSITIONAL {
                sections.push_back(Section::Plain(positional_bounds(range, kind)));
            }
            for kind in Kind::TIMED {
                let bounds = Bounds::prefix(kind_prefix(SlabId(range.slab), kind));
                sections.push_back(Section::Timed(range.clone(), kind, bounds));
            }
        }
        for slab in slabs {
            let deletions = Bounds::prefix(kind_prefix(slab, Kind::Deletion));
            sections.push_back(Section::Deletions(slab, deletions));
            let owners = object_bounds(ranges, slab, Kind::Owner);
            sections.push_back(Section::Owners(slab, owners));
        }
        Self {
            ranges: ranges.to_vec(),
            sections,
        }
    }

    /// The next rows, about `bytes` of them and maybe none; `None` at the end.
    pub(super) fn next(
        &mut self,
        view: &View<'_>,
        bytes: usize,
    ) -> Result<Option<Vec<Entry>>, StateMachineError> {
        let mut rows = Rows {
            rows: Vec::new(),
            left: bytes,
            looks: LOOKS_PER_STEP,
        };
        if self.sections.is_empty() {
            return Ok(None);
        }
        while rows.goes_on()
            && let Some(section) = self.sections.pop_front()
        {
            match section {
                Section::One(entry) => rows.push(entry),
                Section::Plain(bounds) => {
                    if let Some(rest) = take_plain(view, bounds, &mut rows)? {
                        self.sections.push_front(Section::Plain(rest));
                    }
                }
                Section::Timed(range, kind, bounds) => {
                    rows.look();
                    self.timed(view, range, kind, bounds)?;
                }
                Section::Deletions(slab, bounds) => {
                    if let Some(rest) = self.deletions(view, slab, bounds, &mut rows)? {
                        self.sections.push_front(Section::Deletions(slab, rest));
                    }
                }
                Section::Owners(slab, bounds) => self.owners(view, slab, bounds, &mut rows)?,
            }
        }
        Ok(Some(rows.rows))
    }

    /// Finds the next minute with rows, and leaves its rows as a section of their own.
    fn timed(
        &mut self,
        view: &View<'_>,
        range: state::Range,
        kind: Kind,
        bounds: Bounds,
    ) -> Result<(), StateMachineError> {
        let Some(first) = view.scan_raw(&bounds.start, bounds.end.as_deref()).next() else {
            return Ok(());
        };
        let (key, _) = first?;
        let minute = key.get(5..9).and_then(|mut bytes| u32::read(&mut bytes));
        let minute = minute.ok_or_else(|| corrupt("a timed key is too short"))?;
        if let Some(next) = minute.checked_add(1) {
            let mut from = kind_prefix(SlabId(range.slab), kind);
            next.write(&mut from);
            self.sections
                .push_front(Section::Timed(range.clone(), kind, bounds.from(from)));
        }
        let rows = timed_bounds(&range, kind, minute);
        self.sections.push_front(Section::Plain(rows));
        Ok(())
    }

    fn owns(&self, slab: SlabId, bucket: u64, key: &[u8]) -> bool {
        let mut ranges = self.ranges.iter();
        ranges.any(|range| range.slab == slab.0 && contains(range, bucket, key))
    }

    fn deletions(
        &self,
        view: &View<'_>,
        slab: SlabId,
        bounds: Bounds,
        rows: &mut Rows,
    ) -> Result<Option<Bounds>, StateMachineError> {
        for entry in view.scan_raw(&bounds.start, bounds.end.as_deref()) {
            let entry = entry?;
            let row = DeletionKey::decode(&entry.0)?;
            let value: state::Deletion = decode_value(Kind::Deletion, entry.1.clone())?;
            let after = after(&entry.0);
            rows.look();
            if self.owns(slab, row.bucket.0, &value.key) {
                rows.push(entry);
            }
            if !rows.goes_on() {
                return Ok(Some(bounds.clone().from(after)));
            }
        }
        Ok(None)
    }

    /// Finds the next own owner row, and leaves it and what depends on it as sections.
    fn owners(
        &mut self,
        view: &View<'_>,
        slab: SlabId,
        bounds: Bounds,
        rows: &mut Rows,
    ) -> Result<(), StateMachineError> {
        for entry in view.scan_raw(&bounds.start, bounds.end.as_deref()) {
            let entry = entry?;
            let row = OwnerKey::decode(&entry.0)?;
            let value: state::Owner = decode_value(Kind::Owner, entry.1.clone())?;
            rows.look();
            let own = self.owns(slab, row.bucket.0, &value.key);
            if !own && rows.goes_on() {
                continue;
            }
            let rest = bounds.clone().from(after(&entry.0));
            self.sections.push_front(Section::Owners(slab, rest));
            if !own {
                return Ok(());
            }
            self.sections.push_front(Section::One(entry));
            for kind in Kind::OWNED {
                let mut prefix = kind_prefix(slab, kind);
                row.bucket.write(&mut prefix);
                row.object.write(&mut prefix);
                self.sections
                    .push_front(Section::Plain(Bounds::prefix(prefix)));
            }
            return Ok(());
        }
        Ok(())
    }
}

struct Rows {
    rows: Vec<Entry>,
    left: usize,
    looks: usize,
}

impl Rows {
    /// True while the step may read more.
    fn goes_on(&self) -> bool {
        self.left > 0 && self.looks > 0
    }

    fn look(&mut self) {
        self.looks = self.looks.saturating_sub(1);
    }

    fn push(&mut self, entry: Entry) {
        // An entry of nothing still counts, so that every step ends.
        self.left = self.left.saturating_sub(entry.0.len() + entry.1.len());
        self.rows.push(entry);
    }
}

fn take_plain(
    view: &View<'_>,
    bounds: Bounds,
    rows: &mut Rows,
) -> Result<Option<Bounds>, StateMachineError> {
    for entry in view.scan_raw(&bounds.start, bounds.end.as_deref()) {
        let entry = entry?;
        let after = after(&entry.0);
        rows.push(entry);
        rows.look();
        if !rows.goes_on() {
            return Ok(Some(bounds.clone().from(after)));
        }
    }
    Ok(None)
}

/// The smallest key after `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn corrupt(reason: &str) -> StateMachineError {
    StateMachineError::Corrupt {
        what: "a key of the metadata",
        reason: reason.to_owned(),
    }
}
