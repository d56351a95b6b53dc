//! Appends and folds among the random commands. Every checksum is 0, which is that of nothing and
//! stays so whatever is combined with it.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command::Command as Wire;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::query::Query;
use granary_meta_api::pb::query_reply::Reply as Answered;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::limits;

use super::{Object, World, chunk_bytes, extent};

/// What an appendable object is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// Bytes and chunks of each part.
    parts: Vec<(u64, Vec<u32>)>,
    tail: Vec<String>,
}

impl Log {
    fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|(size, _)| size).sum()
    }

    /// Small parts at the end.
    fn run(&self) -> usize {
        let parts = self.parts.iter().rev();
        parts
            .take_while(|(size, _)| *size < limits::SMALL_PART_BYTES)
            .count()
    }

    fn chunks(&self) -> Vec<u32> {
        self.parts
            .iter()
            .flat_map(|(_, chunks)| chunks.clone())
            .collect()
    }

    pub(super) fn tail(&self) -> String {
        self.tail.concat()
    }
}

impl World {
    fn append_command(&mut self, key: &str, position: u64) -> (pb::AppendObject, Log) {
        let mut more = Log::default();
        let payload = if self.below(3) > 0 {
            let text = format!("{};", self.fresh());
            more.tail.push(text.clone());
            pb::Payload {
                size: text.len() as u64,
                inline: text.into(),
                ..Default::default()
            }
        } else {
            let chunks = self.chunks(6);
            let payload = pb::Payload {
                write_id: self.write_id(Self::shard(key)),
                extents: chunks.iter().map(|n| extent(*n)).collect(),
                size: chunk_bytes(&chunks),
                ..Default::default()
            };
            more.parts.push((payload.size, chunks));
            payload
        };
        let command = pb::AppendObject {
            at: Self::at(key),
            payload: Some(payload),
            position,
            ..Default::default()
        };
        (command, more)
    }

    pub(super) fn append(&mut self) {
        let key = self.key();
        let old = self.model.objects.get(&key).cloned();
        let size = old.as_ref().map_or(0, |object| object.size);
        let position = if self.below(8) == 0 { size + 1 } else { size };
        let (command, more) = self.append_command(&key, position);
        let added = command.payload.as_ref().unwrap().size;
        let reply = self.decide(Self::shard(&key), Wire::AppendObject(command));
        let log = match &old {
            None => Some(Log::default()),
            Some(object) => object.log.clone(),
        };
        let room = log
            .as_ref()
            .is_some_and(|log| more.parts.is_empty() || (log.tail.is_empty() && log.run() < 64));
        let expected = match (&log, position == size) {
            (None, _) => Reason::ObjectNotAppendable,
            (Some(_), false) => Reason::PositionNotEqualToLength,
            (Some(_), true) if !room => Reason::FoldFirst,
            (Some(_), true) => Reason::None,
        };
        let reason = reply.rejection.map_or(Reason::None, |no| no.reason());
        assert_eq!(reason, expected, "{key} at {position}");
        let (Some(mut log), Reason::None) = (log, reason) else {
            return;
        };
        let Some(Reply::Version(version)) = reply.reply else {
            panic!("an append answers a version")
        };
        let version = version.version.unwrap();
        assert_eq!(version.size, size + added);
        let stamp = old.map_or(version.stamp, |object| object.stamp);
        assert_eq!(version.stamp, stamp, "no version is made");
        log.parts.extend(more.parts);
        log.tail.extend(more.tail);
        let object = Object {
            id: version.object_id,
            chunks: log.chunks(),
            size: version.size,
            stamp,
            log: Some(log),
            ..Default::default()
        };
        self.model.objects.insert(key, object);
    }

    pub(super) fn fold(&mut self) {
        let objects = self.model.objects.iter();
        let logs: Vec<(String, Object)> = objects
            .filter(|(_, object)| object.log.is_some())
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        if logs.is_empty() {
            return;
        }
        let (key, mut object) = logs[self.below(logs.len())].clone();
        let mut log = object.log.clone().unwrap();
        let run = if self.below(2) == 0 { log.run() } else { 0 };
        let rows = self.below(log.tail.len() + 1);
        let kept = log.parts.len() - run;
        let from: u64 = log.parts[..kept].iter().map(|(size, _)| size).sum();
        let tail: usize = log.tail[..rows].iter().map(String::len).sum();
        let size = log.part_bytes() - from + tail as u64;
        if size == 0 {
            return;
        }
        let full = limits::CHUNK_BYTES_MAX as u64;
        let lengths: Vec<u64> = (0..size.div_ceil(full))
            .map(|n| full.min(size - n * full))
            .collect();
        let chunks: Vec<u32> = lengths.iter().map(|_| self.fresh()).collect();
        let extents = chunks
            .iter()
            .zip(&lengths)
            .map(|(n, length)| state::Extent {
                length: u32::try_from(*length).unwrap(),
                ..extent(*n)
            });
        let stale = self.below(6) == 0;
        let object_id = match stale {
            true => Bytes::from_static(&[1; 16]),
            false => object.id.clone(),
        };
        let command = pb::FoldTail {
            at: Self::at(&key),
            object_id,
            from,
            payload: Some(pb::Payload {
                write_id: self.write_id(Self::shard(&key)),
                extents: extents.collect(),
                size,
                ..Default::default()
            }),
            crc64: 0,
        };
        let reason = self.reason(Self::shard(&key), Wire::FoldTail(command));
        let full = run == 0 && log.run() >= 64;
        let expected = match (stale, full) {
            (true, _) => Reason::Stale,
            (false, true) => Reason::FoldFirst,
            (false, false) => Reason::None,
        };
        assert_eq!(reason, expected, "{key} from {from}, {size} bytes");
        if reason != Reason::None {
            return;
        }
        for (_, chunks) in log.parts.split_off(kept) {
            self.release(&chunks);
        }
        log.parts.push((size, chunks));
        log.tail.drain(..rows);
        object.chunks = log.chunks();
        object.log = Some(log);
        self.model.objects.insert(key, object);
    }

    /// The bytes of an object that stand in rows, as a reader finds them from an offset on.
    pub(super) fn tail_of(&self, key: &str, version: &state::Version, offset: u64) -> String {
        let query = pb::ListExtents {
            at: Self::at(key),
            object_id: version.object_id.clone(),
            body: version.body.clone(),
            offset,
            limit: 4096,
        };
        let Answered::Extents(page) = self.ask(Self::shard(key), Query::ListExtents(query)) else {
            panic!("extents")
        };
        let pieces = page
            .pieces
            .into_iter()
            .filter_map(|piece| match piece.piece {
                Some(pb::extent_piece::Piece::Inline(bytes)) => Some(bytes.to_vec()),
                _ => None,
            });
        String::from_utf8(pieces.flatten().collect()).unwrap()
    }
}
