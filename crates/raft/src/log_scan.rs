//! Reading one shard's log from the store: what it holds when it is opened, and its entries.
//!
//! Every call blocks. What can't be decoded, or lies under another entry's key, is an error.

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, Space};
use granary_types::ShardId;

use crate::RaftError;
use crate::format::{self, Malformed};
use crate::log_key::{Kind, key, kind_end, number};
use crate::tail::Weight;
use crate::types::{Entry, LogId, Vote};

/// A group that has only this member keeps this share of what others keep for each other.
pub(crate) const ALONE_SHARE: u64 = 16;

/// What is known of the log without reading it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bounds {
    /// Index of the first entry; of the next one when there is none.
    pub(crate) first: u64,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

impl Bounds {
    pub(crate) fn end_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

/// What a store holds of a log, its entries left out.
pub(crate) struct Stored {
    pub(crate) bounds: Bounds,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) weight: Weight,
}

/// Reads bounds, vote and commit position, and weighs the newest `keep_bytes` of the log.
pub(crate) fn load(kv: &dyn Kv, shard: ShardId, keep_bytes: u64) -> Result<Stored, RaftError> {
    let corrupt = |reason: String| RaftError::CorruptLog { shard, reason };
    let value = |kind: Kind| kv.get(Space::Log, &key(shard, kind, 0));
    let log_id = |what: &str, kind: Kind| -> Result<Option<LogId>, RaftError> {
        let decode = |bytes: Bytes| {
            format::decode_log_id(&bytes).map_err(|error| corrupt(format!("{what}: {error}")))
        };
        value(kind)?.map(decode).transpose()
    };
    let purged = log_id("purged position", Kind::Purged)?;
    let committed = log_id("commit position", Kind::Committed)?;
    let vote = value(Kind::Vote)?
        .map(|bytes| format::decode_vote(&bytes))
        .transpose()
        .map_err(|error| corrupt(format!("vote: {error}")))?;
    let edge = |direction| -> Result<Option<Entry>, RaftError> {
        let (start, end) = (key(shard, Kind::Entry, 0), kind_end(shard, Kind::Entry));
        let Some(found) = kv.scan(Space::Log, &start, Some(&end), direction).next() else {
            return Ok(None);
        };
        let (key, bytes) = found?;
        decode_at(&key, &bytes)
            .map(Some)
            .map_err(|error| corrupt(error.to_string()))
    };
    let last = edge(Direction::Backward)?.map(|entry| entry.log_id);
    if let Some(first) = edge(Direction::Forward)? {
        let expected = purged.map_or(0, |id| id.index + 1);
        if first.log_id.index > expected {
            let found = first.log_id.index;
            return Err(corrupt(format!(
                "entries {expected} to {found} are missing"
            )));
        }
    }
    let first = purged.map_or(0, |id| id.index + 1);
    let bounds = Bounds {
        first,
        purged,
        last: last.max(purged),
    };
    let weight = weigh(kv, shard, &bounds, keep_bytes)?;
    Ok(Stored {
        bounds,
        vote,
        committed,
        weight,
    })
}

/// Bytes of the log's entries: exact for the newest ones up to `most` bytes; if there are more, the
/// log is weighed as a whole as more than `most`. Blocks.
fn weigh(kv: &dyn Kv, shard: ShardId, bounds: &Bounds, most: u64) -> Result<Weight, KvError> {
    let mut weight = Weight::default();
    let (start, end) = (
        key(shard, Kind::Entry, bounds.first),
        kind_end(shard, Kind::Entry),
    );
    for found in kv.scan(Space::Log, &start, Some(&end), Direction::Backward) {
        let (key, value) = found?;
        let index = number(&key).unwrap_or(bounds.first);
        weight.push_older(index, value.len());
        // A little more than the most, so that the log is cut soon.
        if weight.bytes() > most + most / ALONE_SHARE {
            if index > bounds.first {
                weight.push_older(bounds.first, 0);
            }
            break;
        }
    }
    Ok(weight)
}

/// Reads `start..end`; false beside the entries when there is a gap. Blocks.
pub(crate) fn entries(
    kv: &dyn Kv,
    shard: ShardId,
    start: u64,
    end: u64,
    limit_bytes: usize,
) -> Result<(Vec<Entry>, bool), RaftError> {
    let (from, to) = (key(shard, Kind::Entry, start), key(shard, Kind::Entry, end));
    let mut entries = Vec::new();
    let (mut next, mut bytes) = (start, 0);
    for found in kv.scan(Space::Log, &from, Some(&to), Direction::Forward) {
        let (key, value) = found?;
        if !entries.is_empty() && bytes + value.len() > limit_bytes {
            return Ok((entries, true));
        }
        let entry = decode_at(&key, &value).map_err(|error| RaftError::CorruptLog {
            shard,
            reason: error.to_string(),
        })?;
        if entry.log_id.index != next {
            return Ok((entries, false));
        }
        next += 1;
        bytes += value.len();
        entries.push(entry);
    }
    Ok((entries, next == end))
}

/// Decodes an entry and checks that it is the one its key names.
fn decode_at(key: &[u8], value: &Bytes) -> Result<Entry, Malformed> {
    let entry = format::decode_entry(value)?;
    if number(key) == Some(entry.log_id.index) {
        Ok(entry)
    } else {
        Err(Malformed("an entry is stored under another entry's key"))
    }
}

/// Entries of one shard's log as stored, for checks in tests.
#[cfg(test)]
pub(crate) fn stored_indexes(kv: &dyn granary_kv::KvRead, shard: ShardId) -> Vec<u64> {
    let (start, end) = (key(shard, Kind::Entry, 0), kind_end(shard, Kind::Entry));
    kv.scan(Space::Log, &start, Some(&end), Direction::Forward)
        .map(|entry| number(&entry.unwrap().0).unwrap())
        .collect()
}
