//! What time takes away: answers whose repeats are refused anyway, unfinished writes, read pins,
//! used ids, dropped buckets, and what an aborted upload has left of its parts.
//!
//! A few rows are handled with each command, more with a tick, so that no command pays for many.
//! In every minute a shard's rows are one interval: what is found depends on this shard alone.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::owner::State;
use granary_types::{BucketId, SlabId, limits};

use super::deletions::queue_deletion;
use super::parts::release_left_parts;
use super::{ApplyContext, Refusal, Tx};
use crate::keyspace::bucket_view::BucketViewKey;
use crate::keyspace::expiry::ExpiryKey;
use crate::keyspace::owner::OwnerKey;
use crate::keyspace::pin::PinKey;
use crate::keyspace::{Id, Kind, RowKey, kind_prefix, minute_end_ms, minute_of};
use crate::limits::{COMMAND_DEADLINE_MS_MAX, PARTS_PER_STEP, REPLY_MARGIN_MS};
use crate::ownership::{Place, timed_bounds};
use crate::rows::{Bounds, Rows};

/// Takes away expired answers a minute at a time, and at most `rows` other rows, stepping over at
/// most `idle` minutes without any.
pub(super) fn run(tx: &mut Tx<'_>, time_ms: u64, rows: usize, idle: usize) -> Result<(), Refusal> {
    begin(tx, time_ms);
    for _ in 0..idle {
        let minute = tx.clock.reply_minute;
        if minute_end_ms(minute) + REPLY_MARGIN_MS > time_ms {
            break;
        }
        for bounds in minute_bounds(tx, Kind::CommandReply, minute) {
            if tx.any(&bounds)? {
                tx.delete_range(&bounds);
            }
        }
        tx.clock.reply_minute = minute + 1;
    }
    let mut budget = Budget { rows, idle };
    let mut parts = PARTS_PER_STEP;
    while budget.left() && minute_end_ms(tx.clock.expiry_minute) <= time_ms {
        let found = due(tx, budget.rows)?;
        for row in &found {
            tx.delete(row);
            look(tx, time_ms, row, &mut parts)?;
        }
        if let Some(last) = found.last() {
            tx.clock.expiry_after = last.encode().into();
        }
        if budget.spend(found.len()) {
            tx.clock.expiry_minute += 1;
            tx.clock.expiry_after.clear();
        }
    }
    Ok(())
}

/// A new shard has nothing to expire from before its first command: it begins there, instead of
/// stepping over every minute since 1970.
fn begin(tx: &mut Tx<'_>, time_ms: u64) {
    let clock = &mut tx.clock;
    for minute in [&mut clock.reply_minute, &mut clock.expiry_minute] {
        if *minute == 0 {
            *minute = minute_of(time_ms);
        }
    }
}

struct Budget {
    rows: usize,
    idle: usize,
}

impl Budget {
    fn left(&self) -> bool {
        self.rows > 0 && self.idle > 0
    }

    /// Accounts for rows found in a minute; true when the minute has no more.
    fn spend(&mut self, found: usize) -> bool {
        let exhausted = found < self.rows;
        self.rows -= found;
        if exhausted {
            self.idle -= 1;
        }
        exhausted
    }
}

/// Where the shard's rows of a minute are: in its home slab and in every range, in key order.
fn minute_bounds(tx: &Tx<'_>, kind: Kind, minute: u32) -> Vec<Bounds> {
    let mut prefix = kind_prefix(tx.home(), kind);
    prefix.extend_from_slice(&minute.to_be_bytes());
    let ranges = tx
        .descriptor
        .ranges
        .iter()
        .map(|range| timed_bounds(range, kind, minute));
    let mut all: Vec<_> = std::iter::once(Bounds::prefix(prefix))
        .chain(ranges)
        .collect();
    all.sort_by(|a, b| a.start.cmp(&b.start));
    all
}

/// The next rows of the expiry minute, at most `limit`. It goes on behind the last one, because
/// stepping over many removed rows costs as much as reading them.
fn due(tx: &Tx<'_>, limit: usize) -> Result<Vec<ExpiryKey>, Refusal> {
    let mut found = Vec::new();
    for mut bounds in minute_bounds(tx, Kind::Expiry, tx.clock.expiry_minute) {
        if !tx.clock.expiry_after.is_empty() && bounds.start <= tx.clock.expiry_after {
            bounds.start = [tx.clock.expiry_after.as_ref(), &[0]].concat();
        }
        if bounds.end.as_ref().is_some_and(|end| *end <= bounds.start) {
            continue;
        }
        for row in tx.rows::<ExpiryKey>(&bounds).take(limit - found.len()) {
            found.push(row?.0);
        }
    }
    Ok(found)
}

/// Looks at what an expiry row stands for. It may have been renewed or be gone: then nothing
/// happens. `parts`: how many parts of aborted uploads may still be given up now.
fn look(tx: &mut Tx<'_>, time_ms: u64, row: &ExpiryKey, parts: &mut usize) -> Result<(), Refusal> {
    if row.slab == tx.home() {
        return forget_bucket(tx, row.bucket);
    }
    let place = Place {
        slab: row.slab,
        bucket: row.bucket,
        key: row.key.clone(),
    };
    let at = ApplyContext {
        time_ms,
        place: place.clone(),
        view: state::BucketView::default(),
    };
    if release_left_parts(tx, &at, row.object, parts)? {
        schedule(tx, &place, row.object, time_ms)?;
    }
    let pin_key = PinKey {
        slab: row.slab,
        bucket: row.bucket,
        object: row.object,
    };
    if let Some(pin) = tx.get(&pin_key)?
        && pin.until_ms <= time_ms
    {
        tx.delete(&pin_key);
    }
    let owner_key = OwnerKey {
        slab: row.slab,
        bucket: row.bucket,
        object: row.object,
    };
    let Some(owner) = tx.get(&owner_key)? else {
        return Ok(());
    };
    if owner.deadline_ms > time_ms {
        return Ok(());
    }
    match owner.state() {
        State::Writing if owner.staged_extents == 0 => tx.delete(&owner_key),
        State::Writing => {
            let per_page = limits::EXTENTS_PER_PAGE as u64;
            let pages = u32::try_from(owner.staged_extents.div_ceil(per_page)).unwrap_or(u32::MAX);
            let body = state::Body {
                place: Some(state::body::Place::Pages(state::PagedBody {
                    pages,
                    extents: owner.staged_extents,
                })),
            };
            queue_deletion(tx, &place, time_ms, row.object, &body, owner.staged_bytes)?;
        }
        State::Deleted => tx.delete(&owner_key),
        State::Committed | State::Part | State::Deleting => {}
    }
    Ok(())
}

/// Forgets a dropped bucket: no command of its time can be accepted any more.
fn forget_bucket(tx: &mut Tx<'_>, bucket: BucketId) -> Result<(), Refusal> {
    let row = BucketViewKey {
        slab: tx.home(),
        bucket,
    };
    if tx.get(&row)?.is_some_and(|view| view.dropped) {
        tx.delete(&row);
    }
    Ok(())
}

/// Asks for a look at a dropped bucket once no delayed command of its time can arrive any more.
pub(super) fn forget_bucket_later(
    tx: &mut Tx<'_>,
    home: SlabId,
    bucket: BucketId,
    time_ms: u64,
) -> Result<(), Refusal> {
    let place = Place {
        slab: home,
        bucket,
        key: Bytes::new(),
    };
    let at_ms = time_ms + COMMAND_DEADLINE_MS_MAX + REPLY_MARGIN_MS;
    schedule(tx, &place, Id([0; 16]), at_ms)
}

/// Asks for a look at an object id once `at_ms` has passed.
pub(super) fn schedule(
    tx: &mut Tx<'_>,
    place: &Place,
    object: Id,
    at_ms: u64,
) -> Result<(), Refusal> {
    tx.put(&key(place, object, at_ms), &())
}

/// Takes back what [`schedule`] asked for.
pub(super) fn unschedule(tx: &mut Tx<'_>, place: &Place, object: Id, at_ms: u64) {
    tx.delete(&key(place, object, at_ms));
}

fn key(place: &Place, object: Id, at_ms: u64) -> ExpiryKey {
    ExpiryKey {
        slab: place.slab,
        minute: minute_of(at_ms),
        bucket: place.bucket,
        key: place.key.clone(),
        object,
    }
}
