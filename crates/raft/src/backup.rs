//! A group's history outside of its replicas: applied entries to keep elsewhere, and a replica that
//! goes on alone from such a history.
//!
//! Invariants: only applied entries are handed out, so what is kept elsewhere never has to be taken
//! back; entries are put back in order, without a gap and only where their terms show that they
//! follow; a history that goes on has a higher term than anybody can have used before, so that its
//! entries are newer than whatever others may still remember.

use bytes::Bytes;
use granary_kv::{Kv, KvError, Space, WriteBatch};
use granary_types::{NodeId, ShardId};

use crate::format::{Bookkeeping, decode_entry, encode_log_id, encode_vote};
use crate::log_key::{Kind, key};
use crate::machine::commit;
use crate::snapshot::decode_books;
use crate::types::{Entry, LogId, Membership, StoredMembership, Vote};
use crate::{Committed, StateMachineError};

/// The term of a history that goes on alone is raised by a multiple of this. Terms that were used after
/// the last entry that is known are lost with the votes: this many elections are never held meanwhile.
const TERMS_SKIPPED: u64 = 1024;

/// The term in which a history goes on alone that ends in `term`, where something else is known of the
/// same shard, which ends in `seen` (of an earlier life, and not usable any more): above both, or it
/// would be taken for older than that.
fn alone(term: u64, seen: u64) -> u64 {
    let between = seen.saturating_sub(term).div_ceil(TERMS_SKIPPED);
    term.saturating_add((between + 1).saturating_mul(TERMS_SKIPPED))
}

/// A position in a shard's log. A later one of the same history is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

impl LogPosition {
    pub(crate) fn of(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }

    /// The position that opaque bookkeeping tells of; `None` before the first entry.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_bookkeeping(bookkeeping: &Bytes) -> Result<Option<Self>, StateMachineError> {
        Ok(decode_books(bookkeeping)?.applied.as_ref().map(Self::of))
    }
}

/// Applied entries of a log, as [`Group::read_applied`](crate::Group::read_applied) finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppliedEntries {
    /// Consecutive ones, encoded as they are stored; none when nothing more is applied.
    Found(Vec<(LogPosition, Bytes)>),
    /// The log was cut above the first one.
    Cut,
}

/// Puts a history back: the bookkeeping of a snapshot, then the entries after it.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    books: Bookkeeping,
}

/// What became of an entry that was put back.
#[derive(Debug)]
pub enum Step {
    /// It is next: apply it, with [`Replay::bookkeeping`].
    Next(Committed),
    /// The history has it already.
    Known,
    /// It belongs to another history, or what comes before it is missing.
    Foreign,
}

impl Replay {
    /// Goes on from a snapshot.
    ///
    /// # Errors
    /// The bookkeeping cannot be read.
    pub fn begin(bookkeeping: &Bytes) -> Result<Self, StateMachineError> {
        Ok(Self {
            books: decode_books(bookkeeping)?,
        })
    }

    /// Goes on from the first state of a shard that a split has made: its log's first entry says who votes
    /// and nothing else, and is in no backup.
    pub fn at_birth() -> Self {
        let books = Bookkeeping {
            applied: Some(LogId::new_term_index(0, 0)),
            ..Default::default()
        };
        Self { books }
    }

    /// How far the history is.
    pub fn position(&self) -> Option<LogPosition> {
        self.books.applied.as_ref().map(LogPosition::of)
    }

    /// The newest leader's time in it, in milliseconds since the epoch.
    pub fn time_ms(&self) -> u64 {
        self.books.time_ms
    }

    /// What the state machine keeps beside the state.
    pub fn bookkeeping(&self) -> Bytes {
        self.books.encode()
    }

    /// Whether what followed the entry at `previous` is this history's next: `previous` is its end,
    /// or what [`Replay::go_on_alone`] made of that.
    pub fn goes_on_from(&self, previous: LogPosition) -> bool {
        self.position().is_some_and(|end| {
            let raised = previous.term.checked_sub(end.term);
            let follows = raised.is_some_and(|by| by.is_multiple_of(TERMS_SKIPPED));
            previous.index == end.index && follows
        })
    }

    /// Takes an encoded entry.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn step(&mut self, encoded: &Bytes) -> Result<Step, StateMachineError> {
        let entry: Entry = decode_entry(encoded).map_err(|error| StateMachineError::Corrupt {
            what: "a log entry",
            reason: error.to_string(),
        })?;
        let id = LogPosition::of(&entry.log_id);
        let Some(at) = self.position() else {
            return Ok(Step::Foreign);
        };
        if id.index <= at.index {
            // Entries of one term and index are the same, and so is all before them.
            let same = id.index < at.index || id.term == at.term;
            return Ok(if same { Step::Known } else { Step::Foreign });
        }
        if id.index != at.index + 1 || id.term < at.term {
            return Ok(Step::Foreign);
        }
        Ok(Step::Next(commit(&mut self.books, entry)))
    }

    /// Lets the history go on in a store without a log, with `node` as the only voter; the
    /// bookkeeping that the state machine has to keep from now on. `seen_term`: the highest term of
    /// which anything is known elsewhere. Blocks.
    ///
    /// # Errors
    /// The store failed.
    pub fn go_on_alone(
        mut self,
        kv: &dyn Kv,
        shard: ShardId,
        node: NodeId,
        seen_term: u64,
    ) -> Result<Bytes, KvError> {
        let at = self.position().unwrap_or_default();
        let term = alone(at.term, seen_term);
        let id = LogId::new_term_index(term, at.index);
        let alone = Membership::new_with_defaults(vec![[node.0].into_iter().collect()], []);
        self.books.applied = Some(id);
        self.books.membership = StoredMembership::new(Some(id), alone);
        let mut batch = WriteBatch::new();
        batch.delete_range(
            Space::Log,
            key(shard, Kind::Vote, 0),
            key(shard, Kind::Staged, u64::MAX),
        );
        let position = encode_log_id(&id);
        let vote = encode_vote(&Vote::new(term, node.0));
        batch.put(Space::Log, key(shard, Kind::Vote, 0), vote);
        batch.put(Space::Log, key(shard, Kind::Purged, 0), position.clone());
        batch.put(Space::Log, key(shard, Kind::Committed, 0), position);
        kv.write(batch)?;
        Ok(self.books.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_alone_is_newer_than_anything_seen() {
        for (term, seen, expected) in [
            (0, 0, 1024),
            (3, 3, 1027),
            (3, 1, 1027),
            (3, 5, 2051),
            (0, 1026, 3072),
            (1026, 1027, 3074),
        ] {
            let found = alone(term, seen);
            assert_eq!(found, expected, "{term} {seen}");
            assert!(found >= seen.max(term) + TERMS_SKIPPED);
        }
    }
}
