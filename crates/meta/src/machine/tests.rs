//! Random commands with repeats, power cuts, restarts and snapshots on two shards that share a
//! slab, against a model of what a client was told.
//!
//! After every crash the log is applied again from where the store says it is, as the Raft crate
//! does; every answer must be the one that was given before. In the end a replica that never
//! crashed, given the same log in other batches, holds the same bytes.

mod appends;
mod remembered;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvRead, MemoryKv, Space};
use granary_meta_api::pb;
use granary_meta_api::pb::command::Command as Wire;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::query::Query;
use granary_meta_api::pb::query_reply::Reply as Answered;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_raft::{Committed, StateMachine};
use granary_runtime::{Entropy, SeededEntropy};
use granary_types::{ObjectId, ShardId, SlabId, limits};
use prost::Message;

use super::{Claims, MANY_ROWS_BYTES, ShardMachine, create_shard};
use crate::keyspace::{Kind, kind_prefix};
use crate::query::{IdSource, ShardView, answer};
use crate::rows::Bounds;

const SEEDS: u64 = 300;
const STEPS: usize = 250;
const BUCKET: u64 = 5;
const HOMES: [SlabId; 2] = [SlabId(2), SlabId(3)];
const DATA: SlabId = SlabId(9);
const GRACE_MS: u64 = 30_000;
const LEASE_MS: u64 = 90_000;
const DEADLINE_MS: u64 = 30_000;

/// What a client believes an object to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Object {
    id: Bytes,
    inline: Bytes,
    chunks: Vec<u32>,
    size: u64,
    stamp: u64,
    log: Option<appends::Log>,
}

#[derive(Clone, Debug, Default)]
struct Upload {
    key: String,
    parts: BTreeMap<u32, (u64, Vec<u32>)>,
}

#[derive(Clone, Debug)]
struct Write {
    key: String,
    chunks: Vec<u32>,
    deadline_ms: u64,
}

#[derive(Debug, Default)]
struct Model {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<Bytes, Upload>,
    writes: BTreeMap<Bytes, Write>,
    /// Chunks that nothing refers to any more, and those of them that are gone.
    released: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    pins: BTreeMap<Bytes, u64>,
}

impl Model {
    fn live(&self, now_ms: u64) -> BTreeSet<u32> {
        let objects = self.objects.values().flat_map(|object| &object.chunks);
        let parts = self
            .uploads
            .values()
            .flat_map(|upload| upload.parts.values());
        let parts = parts.flat_map(|(_, chunks)| chunks);
        let writes = self.writes.values();
        let writes = writes.filter(|write| write.deadline_ms >= now_ms);
        let writes = writes.flat_map(|write| &write.chunks);
        objects.chain(parts).chain(writes).copied().collect()
    }
}

struct Sent {
    shard: usize,
    bytes: Bytes,
    deadline_ms: u64,
    reply: Bytes,
}

struct World {
    /// The bucket has directories, and one shard; every key is in one of them.
    tree: bool,
    entropy: SeededEntropy,
    kv: MemoryKv,
    machines: Vec<Arc<ShardMachine>>,
    logs: [Vec<Committed>; 2],
    answers: [Vec<Vec<Bytes>>; 2],
    model: Model,
    sent: Vec<Sent>,
    time_ms: u64,
    next: u32,
}

fn bookkeeping(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_be_bytes())
}

fn extent(n: u32) -> state::Extent {
    state::Extent {
        chunk: Bytes::copy_from_slice(&u128::from(n).to_be_bytes()),
        length: u32::try_from(limits::PART_BYTES_MIN).unwrap(),
        digest: n,
        ..Default::default()
    }
}

fn chunk_bytes(chunks: &[u32]) -> u64 {
    chunks.len() as u64 * limits::PART_BYTES_MIN
}

fn first_state(kv: &MemoryKv) {
    let descriptor = state::ShardDescriptor {
        shard: 1,
        home_slab: HOMES[0].0,
        epoch: 1,
        ranges: vec![state::Range {
            slab: DATA.0,
            epoch: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let settings = state::ShardSettings {
        reader_grace_ms: GRACE_MS,
        write_lease_ms: LEASE_MS,
    };
    create_shard(kv, &descriptor, settings, crate::FEATURE_LEVEL).unwrap();
}

fn open(kv: &MemoryKv, shard: usize) -> Arc<ShardMachine> {
    let id = ShardId(u32::try_from(shard + 1).unwrap());
    ShardMachine::open(Arc::new(kv.clone()), id, HOMES[shard], Claims::default()).unwrap()
}

/// Applies as a group does: at once where the store can.
fn apply(machine: &ShardMachine, entries: Vec<Committed>, books: Bytes) -> Vec<Vec<Bytes>> {
    let at_once = machine.apply_at_once(&entries, &books).unwrap();
    at_once.unwrap_or_else(|| machine.apply(entries, books).unwrap())
}

fn state_rows(kv: &MemoryKv) -> Vec<(Bytes, Bytes)> {
    let rows = kv.scan(Space::State, b"", None, Direction::Forward);
    rows.map(Result::unwrap).collect()
}

impl World {
    fn new(seed: u64, tree: bool) -> Self {
        let kv = MemoryKv::new();
        first_state(&kv);
        let mut world = Self {
            tree,
            entropy: SeededEntropy::new(seed),
            machines: vec![open(&kv, 0)],
            kv,
            logs: Default::default(),
            answers: Default::default(),
            model: Model::default(),
            sent: Vec::new(),
            time_ms: 1_800_000_000_000,
            next: 1,
        };
        let view = state::BucketView {
            bucket_id: BUCKET,
            generation: 1,
            hierarchical: tree,
            ..Default::default()
        };
        world.yes(
            0,
            Wire::ConfigureBucket(pb::ConfigureBucket {
                view: Some(view),
                segment: None,
            }),
        );
        let (split_bucket, split_key) = match tree {
            true => (BUCKET + 1, &b""[..]),
            false => (BUCKET, &b"m"[..]),
        };
        world.yes(
            0,
            Wire::SplitRange(pb::SplitRange {
                split_bucket,
                split_key: Bytes::from_static(split_key),
                child_shard: 2,
                child_home_slab: HOMES[1].0,
                voters: vec![1],
                ..Default::default()
            }),
        );
        world.kv.sync().unwrap();
        world.machines.push(open(&world.kv, 1));
        world
    }

    fn below(&self, n: usize) -> usize {
        usize::try_from(self.entropy.below(n as u64)).unwrap()
    }

    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn key(&self) -> String {
        let letter = b"abcdefnopqrs"[self.below(12)];
        match self.tree {
            true => format!("d/{}", char::from(letter)),
            false => char::from(letter).to_string(),
        }
    }

    fn at(key: &str) -> Option<pb::Position> {
        Some(pb::Position {
            bucket_id: BUCKET,
            key: Bytes::copy_from_slice(key.as_bytes()),
            generation: 1,
        })
    }

    fn shard(key: &str) -> usize {
        usize::from(key >= "m")
    }

    fn write_id(&mut self, shard: usize) -> Bytes {
        let counter = self.fresh();
        let shard = ShardId(u32::try_from(shard + 1).unwrap());
        let id = ObjectId::compose(self.time_ms, shard, 1, counter);
        Bytes::copy_from_slice(&id.to_bytes())
    }

    fn chunks(&mut self, most: usize) -> Vec<u32> {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.fresh()).collect()
    }

    /// Appends an entry to a shard's log and applies it.
    fn entry(&mut self, shard: usize, commands: Vec<Bytes>) -> Vec<Bytes> {
        let index = self.logs[shard].len() as u64;
        let entry = Committed {
            index,
            term: 1,
            time_ms: self.time_ms,
            entropy: 0,
            commands,
        };
        self.logs[shard].push(entry.clone());
        let mut answers = apply(&self.machines[shard], vec![entry], bookkeeping(index));
        let answers = answers.pop().unwrap();
        self.answers[shard].push(answers.clone());
        if self.below(4) == 0 {
            self.kv.sync().unwrap();
        }
        answers
    }

    fn decide(&mut self, shard: usize, command: Wire) -> pb::CommandReply {
        let id = self.entropy.next_u128().to_be_bytes();
        let envelope = pb::Command {
            id: Bytes::copy_from_slice(&id),
            deadline_ms: self.time_ms + DEADLINE_MS,
            command: Some(command),
        };
        let bytes = Bytes::from(envelope.encode_to_vec());
        // Sometimes the entry holds the command twice, as after a retry that was not needed.
        let times = 1 + usize::from(self.below(10) == 0);
        let answers = self.entry(shard, vec![bytes.clone(); times]);
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        let reply = pb::ProposeReply::decode(answers[0].clone()).unwrap();
        self.sent.push(Sent {
            shard,
            bytes,
            deadline_ms: envelope.deadline_ms,
            reply: answers[0].clone(),
        });
        reply.reply.unwrap_or_else(|| panic!("{:?}", reply.fault))
    }

    fn yes(&mut self, shard: usize, command: Wire) -> Reply {
        let reply = self.decide(shard, command);
        assert_eq!(reply.rejection, None);
        reply.reply.unwrap()
    }

    fn reason(&mut self, shard: usize, command: Wire) -> Reason {
        let reply = self.decide(shard, command);
        reply.rejection.map_or(Reason::None, |no| no.reason())
    }

    fn release(&mut self, chunks: &[u32]) {
        self.model.released.extend(chunks);
    }

    fn put(&mut self, key: &str, payload: pb::Payload, chunks: Vec<u32>) {
        let forbid_overwrite = self.below(6) == 0;
        let (inline, size) = (payload.inline.clone(), payload.size);
        let command = Wire::PutObject(pb::PutObject {
            at: Self::at(key),
            payload: Some(payload),
            forbid_overwrite,
            ..Default::default()
        });
        let reply = self.decide(Self::shard(key), command);
        let old = self.model.objects.get(key).cloned();
        if forbid_overwrite && old.is_some() {
            assert_eq!(reply.rejection.unwrap().reason(), Reason::AlreadyExists);
            return;
        }
        assert_eq!(reply.rejection, None);
        let Some(Reply::Version(version)) = reply.reply else {
            panic!("a put answers a version")
        };
        self.replaced(key, version.version.unwrap(), inline, chunks, size);
    }

    fn replaced(
        &mut self,
        key: &str,
        version: state::Version,
        inline: Bytes,
        chunks: Vec<u32>,
        size: u64,
    ) {
        assert_eq!(version.size, size);
        let object = Object {
            id: version.object_id,
            inline,
            chunks,
            size,
            stamp: version.stamp,
            log: None,
        };
        if let Some(old) = self.model.objects.insert(key.to_owned(), object) {
            assert!(version.stamp > old.stamp, "stamps grow");
            self.release(&old.chunks);
        }
    }

    fn put_inline(&mut self) {
        let key = self.key();
        let inline = Bytes::from(format!("{}", self.fresh()));
        let payload = pb::Payload {
            size: inline.len() as u64,
            inline,
            ..Default::default()
        };
        self.put(&key, payload, Vec::new());
    }

    fn put_chunks(&mut self) {
        let key = self.key();
        let write_id = self.write_id(Self::shard(&key));
        let chunks = self.chunks(300);
        let payload = pb::Payload {
            write_id: write_id.clone(),
            extents: chunks.iter().map(|n| extent(*n)).collect(),
            size: chunk_bytes(&chunks),
            ..Default::default()
        };
        self.put(&key, payload, chunks);
    }

    fn stage(&mut self) {
        let known = self.model.writes.len();
        let known = (known > 0 && self.below(2) == 0).then(|| self.below(known));
        let (id, mut write) = match known {
            Some(n) => {
                let (id, write) = self.model.writes.iter().nth(n).unwrap();
                (id.clone(), write.clone())
            }
            None => {
                let key = self.key();
                let deadline_ms = self.time_ms + LEASE_MS;
                let chunks = Vec::new();
                let write = Write {
                    key,
                    chunks,
                    deadline_ms,
                };
                (self.write_id(Self::shard(&write.key)), write)
            }
        };
        let chunks = self.chunks(150);
        let command = Wire::StageExtents(pb::StageExtents {
            at: Self::at(&write.key),
            write_id: id.clone(),
            first: write.chunks.len() as u64,
            extents: chunks.iter().map(|n| extent(*n)).collect(),
            abandoned: Vec::new(),
        });
        let reason = self.reason(Self::shard(&write.key), command);
        if self.time_ms > write.deadline_ms {
            // Known still, expired, or forgotten by now: refused in any case.
            assert_ne!(reason, Reason::None);
            return;
        }
        assert_eq!(reason, Reason::None);
        write.chunks.extend(chunks);
        write.deadline_ms = write.deadline_ms.max(self.time_ms + LEASE_MS);
        self.model.writes.insert(id, write);
    }

    fn commit_staged(&mut self) {
        let Some((id, write)) = self.model.writes.pop_first() else {
            return;
        };
        let payload = pb::Payload {
            write_id: id,
            staged_extents: write.chunks.len() as u64,
            size: chunk_bytes(&write.chunks),
            ..Default::default()
        };
        let command = Wire::PutObject(pb::PutObject {
            at: Self::at(&write.key),
            payload: Some(payload),
            ..Default::default()
        });
        let reply = self.decide(Self::shard(&write.key), command);
        if self.time_ms > write.deadline_ms {
            assert!(reply.rejection.is_some(), "its deadline has passed");
            self.release(&write.chunks);
            return;
        }
        assert_eq!(reply.rejection, None);
        let Some(Reply::Version(version)) = reply.reply else {
            panic!("a put answers a version")
        };
        let size = chunk_bytes(&write.chunks);
        let version = version.version.unwrap();
        self.replaced(&write.key, version, Bytes::new(), write.chunks, size);
    }

    fn delete(&mut self) {
        let key = self.key();
        let command = Wire::DeleteObject(pb::DeleteObject {
            at: Self::at(&key),
            ..Default::default()
        });
        let Reply::Deleted(reply) = self.yes(Self::shard(&key), command) else {
            panic!("a delete answers what it was")
        };
        let old = self.model.objects.remove(&key);
        assert_eq!(reply.existed, old.is_some());
        self.release(&old.unwrap_or_default().chunks);
    }

    fn initiate(&mut self) {
        let key = self.key();
        let upload_id = self.write_id(Self::shard(&key));
        let command = Wire::InitiateUpload(pb::InitiateUpload {
            at: Self::at(&key),
            upload_id: upload_id.clone(),
            ..Default::default()
        });
        self.yes(Self::shard(&key), command);
        let upload = Upload {
            key,
            ..Default::default()
        };
        self.model.uploads.insert(upload_id, upload);
    }

    fn any_upload(&self) -> Option<(Bytes, Upload)> {
        let count = self.model.uploads.len();
        let nth = (count > 0).then(|| self.below(count))?;
        let (id, upload) = self.model.uploads.iter().nth(nth)?;
        Some((id.clone(), upload.clone()))
    }

    fn put_part(&mut self) {
        let Some((id, upload)) = self.any_upload() else {
            return;
        };
        let shard = Self::shard(&upload.key);
        let number = u32::try_from(1 + self.below(40)).unwrap();
        let inline = self.below(4) == 0;
        let (payload, chunks) = if inline {
            let inline = Bytes::from_static(b"tail");
            let payload = pb::Payload {
                size: inline.len() as u64,
                inline,
                ..Default::default()
            };
            (payload, Vec::new())
        } else {
            let chunks = self.chunks(140);
            let payload = pb::Payload {
                write_id: self.write_id(shard),
                extents: chunks.iter().map(|n| extent(*n)).collect(),
                size: chunk_bytes(&chunks),
                ..Default::default()
            };
            (payload, chunks)
        };
        let size = payload.size;
        let command = Wire::PutPart(pb::PutPart {
            at: Self::at(&upload.key),
            upload_id: id.clone(),
            number,
            etag: format!("{number:032X}"),
            crc64: 0,
            payload: Some(payload),
            prefix: None,
        });
        self.yes(shard, command);
        let upload = self.model.uploads.get_mut(&id).unwrap();
        if let Some((_, old)) = upload.parts.insert(number, (size, chunks)) {
            self.release(&old);
        }
    }

    fn complete(&mut self) {
        let Some((id, upload)) = self.any_upload() else {
            return;
        };
        let named: Vec<u32> = upload.parts.keys().copied().collect();
        let named: Vec<u32> = named.into_iter().filter(|_| self.below(3) > 0).collect();
        let parts = named.iter().map(|number| pb::CompletePart {
            number: *number,
            etag: format!("{number:032x}"),
        });
        let command = Wire::CompleteUpload(pb::CompleteUpload {
            at: Self::at(&upload.key),
            upload_id: id.clone(),
            parts: parts.collect(),
            ..Default::default()
        });
        let reply = self.decide(Self::shard(&upload.key), command);
        let sizes: Vec<u64> = named.iter().map(|number| upload.parts[number].0).collect();
        let all_but_last = sizes.split_last().map_or(&[][..], |(_, rest)| rest);
        if all_but_last
            .iter()
            .any(|size| *size < limits::PART_BYTES_MIN)
        {
            assert_eq!(reply.rejection.unwrap().reason(), Reason::PartTooSmall);
            return;
        }
        assert_eq!(reply.rejection, None);
        let Some(Reply::Version(version)) = reply.reply else {
            panic!("a completed upload answers a version")
        };
        let (mut chunks, mut left) = (Vec::new(), Vec::new());
        for (number, (_, part)) in &upload.parts {
            match named.contains(number) {
                true => chunks.extend(part),
                false => left.extend(part.iter().copied()),
            }
        }
        self.model.uploads.remove(&id);
        self.release(&left);
        let version = version.version.unwrap();
        let size = sizes.iter().sum();
        self.replaced(&upload.key, version, Bytes::new(), chunks, size);
    }

    fn abort(&mut self) {
        let Some((upload_id, upload)) = self.any_upload() else {
            return;
        };
        let command = Wire::AbortUpload(pb::AbortUpload {
            at: Self::at(&upload.key),
            upload_id: upload_id.clone(),
        });
        self.yes(Self::shard(&upload.key), command);
        self.model.uploads.remove(&upload_id);
        for (_, chunks) in upload.parts.values() {
            self.release(chunks);
        }
    }

    fn pin(&mut self) {
        let key = self.key();
        let Some(object) = self.model.objects.get(&key).cloned() else {
            return;
        };
        if object.chunks.is_empty() {
            return;
        }
        let until_ms = self.time_ms + 1 + self.entropy.below(4 * GRACE_MS);
        let command = Wire::PinRead(pb::PinRead {
            at: Self::at(&key),
            object_id: object.id.clone(),
            until_ms,
        });
        self.yes(Self::shard(&key), command);
        let known = self.model.pins.entry(object.id).or_default();
        *known = until_ms.max(*known);
    }

    fn tick(&mut self, passed_ms: u64) {
        self.time_ms += passed_ms;
        for shard in 0..2 {
            self.yes(shard, Wire::Tick(pb::Tick {}));
        }
    }

    /// A command arrives once more, maybe long after.
    fn repeat(&mut self) {
        let from = self.sent.len().saturating_sub(40);
        let nth = from + self.below(self.sent.len() - from);
        let Sent {
            shard,
            bytes,
            deadline_ms,
            reply,
        } = &self.sent[nth];
        let (shard, bytes, deadline_ms, reply) =
            (*shard, bytes.clone(), *deadline_ms, reply.clone());
        let tick = matches!(
            pb::Command::decode(bytes.clone()).unwrap().command,
            Some(Wire::Tick(_))
        );
        let again = self.entry(shard, vec![bytes]).remove(0);
        let late = pb::ProposeReply::decode(again.clone()).unwrap().fault;
        match late {
            None => assert_eq!(again, reply, "a repeat has the first answer"),
            Some(fault) => {
                assert!(self.time_ms > deadline_ms, "{fault:?}");
                assert!(tick || !fault.never_applied, "it was applied: {fault:?}");
            }
        }
    }

    fn ask(&self, shard: usize, query: Query) -> Answered {
        let (snapshot, known) = self.machines[shard].view();
        let ids = IdSource {
            shard: ShardId(u32::try_from(shard + 1).unwrap()),
            term: 1,
            counter: Arc::default(),
        };
        let (rows, home) = (snapshot.as_ref(), HOMES[shard]);
        let view = ShardView::open(rows, home, None, self.time_ms, ids.clone()).unwrap();
        if let Some(known) = known {
            // What is known without reading is what stands there.
            let quick = ShardView::open(rows, home, Some(known), self.time_ms, ids).unwrap();
            assert_eq!(
                (quick.descriptor, quick.clock),
                (Arc::clone(&view.descriptor), Arc::clone(&view.clock))
            );
        }
        answer(query, &view).unwrap()
    }

    /// The chunks of a body, as a reader or the deletion worker finds them.
    fn references(
        &self,
        shard: usize,
        key: &Bytes,
        object_id: &Bytes,
        body: Option<state::Body>,
    ) -> Vec<u32> {
        let mut query = pb::ListExtents {
            at: Some(pb::Position {
                bucket_id: BUCKET,
                key: key.clone(),
                generation: 1,
            }),
            object_id: object_id.clone(),
            body,
            offset: 0,
            limit: 1000,
        };
        let mut found = Vec::new();
        loop {
            let Answered::Extents(page) = self.ask(shard, Query::ListExtents(query.clone())) else {
                panic!("extents")
            };
            query.offset = page.first_offset;
            for piece in page.pieces {
                match piece.piece.unwrap() {
                    pb::extent_piece::Piece::Extent(extent) => {
                        query.offset += u64::from(extent.length);
                        found.push(extent.digest);
                    }
                    pb::extent_piece::Piece::Inline(bytes) => query.offset += bytes.len() as u64,
                }
            }
            if !page.more {
                return found;
            }
        }
    }

    fn due(&self, shard: usize) -> Vec<pb::DeletionEntry> {
        let query = pb::ListDeletions {
            limit: 1000,
            after_seq: 0,
        };
        let Answered::Deletions(page) = self.ask(shard, Query::ListDeletions(query)) else {
            panic!("deletions")
        };
        page.entries
    }

    /// What a deletion worker does with some of what it is given.
    fn acknowledge(&mut self) {
        for shard in 0..2 {
            let live = self.model.live(self.time_ms);
            let mut seqs = Vec::new();
            for entry in self.due(shard) {
                let deletion = entry.deletion.unwrap();
                let key = String::from_utf8_lossy(&deletion.key);
                let own = if self.tree { 0 } else { Self::shard(&key) };
                assert_eq!(own, shard, "another shard's");
                let pinned = self.model.pins.get(&deletion.object_id);
                let applied_ms = self.logs[shard].last().unwrap().time_ms;
                assert!(pinned.is_none_or(|until| *until <= applied_ms), "pinned");
                let chunks =
                    self.references(shard, &deletion.key, &deletion.object_id, deletion.body);
                assert!(chunks.iter().all(|n| !live.contains(n)), "a living chunk");
                if self.below(3) > 0 {
                    seqs.push(entry.seq);
                    self.model.gone.extend(chunks);
                }
            }
            loop {
                let command = Wire::AckDeletions(pb::AckDeletions {
                    seqs: seqs.clone(),
                    lease_token: 0,
                });
                match self.yes(shard, command) {
                    Reply::Ack(ack) if ack.more => {}
                    Reply::Ack(_) => break,
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// The power goes; some of what was not synced is on disk all the same.
    fn crash(&mut self) {
        let survivors = self.below(self.kv.unsynced() + 1);
        self.kv = self.kv.crash(survivors);
        self.machines.clear();
        for shard in 0..2 {
            self.machines.push(open(&self.kv, shard));
            self.catch_up(shard);
        }
    }

    /// Applies again what the log has and the store has not, in random batches.
    fn catch_up(&self, shard: usize) {
        let machine = &self.machines[shard];
        let books = machine.load_bookkeeping().unwrap();
        let mut next = books.map_or(0, |books| {
            u64::from_be_bytes(books.as_ref().try_into().unwrap()) + 1
        });
        while let Some(rest) = self.logs[shard].get(usize::try_from(next).unwrap()..)
            && !rest.is_empty()
        {
            let some = &rest[..1 + self.below(rest.len().min(20))];
            let last = next + some.len() as u64 - 1;
            let answers = apply(machine, some.to_vec(), bookkeeping(last));
            let from = usize::try_from(next).unwrap();
            assert_eq!(answers, self.answers[shard][from..from + some.len()]);
            next = last + 1;
        }
    }

    /// A shard is replaced by a snapshot of itself, in a store that is behind; the power may go at
    /// any write of it. The other shard of the slab does not notice.
    fn snapshot(&mut self) {
        let shard = self.below(2);
        let mut reader = self.machines[shard].snapshot().unwrap();
        // A child that has not applied anything yet has none to send.
        let Some(books) = reader.bookkeeping() else {
            return;
        };
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            chunks.push(chunk);
        }
        for _ in 0..self.below(6) {
            self.put_inline();
            self.delete();
        }
        let sibling = |kv: &MemoryKv| -> Vec<_> {
            let home = HOMES[1 - shard].0.to_be_bytes();
            let rows = state_rows(kv);
            rows.into_iter()
                .filter(|(key, _)| key.starts_with(&home))
                .collect()
        };
        for attempt in 0.. {
            let before = sibling(&self.kv);
            let stops_at = (attempt < 3).then(|| self.below(chunks.len() + 2));
            let mut writer = self.machines[shard].restore().unwrap();
            for (n, chunk) in chunks.iter().enumerate() {
                if stops_at == Some(n) {
                    break;
                }
                writer.write(chunk.clone()).unwrap();
            }
            if stops_at.is_none_or(|at| at > chunks.len()) {
                writer.finish(books.clone()).unwrap();
                // Before the staged chunks are forgotten.
                self.kv.sync().unwrap();
                assert_eq!(sibling(&self.kv), before);
                break;
            }
            let survivors = self.below(self.kv.unsynced() + 1);
            self.kv = self.kv.crash(survivors);
            self.machines = vec![open(&self.kv, 0), open(&self.kv, 1)];
            self.catch_up(1 - shard);
        }
        self.catch_up(shard);
    }

    /// Everything a client can ask agrees with the model.
    fn check(&self) {
        let mut listed = BTreeMap::new();
        let mut counted = state::Counter::default();
        for shard in 0..if self.tree { 1 } else { 2 } {
            let (start, end) = [("", "m"), ("m", "")][shard];
            let query = pb::ListObjects {
                bucket_id: BUCKET,
                limit: 1000,
                start_key: Bytes::from_static(start.as_bytes()),
                bounded: shard == 0 && !self.tree,
                end_key: Bytes::from_static(end.as_bytes()),
                ..Default::default()
            };
            let Answered::Objects(page) = self.ask(shard, Query::ListObjects(query)) else {
                panic!("objects")
            };
            for item in page.items {
                let Some(pb::list_item::Item::Object(entry)) = item.item else {
                    panic!("no groups")
                };
                let key = String::from_utf8(entry.key.to_vec()).unwrap();
                if self.tree && key.ends_with('/') {
                    continue;
                }
                listed.insert(key, entry.version.unwrap().size);
            }
            let query = pb::GetCounters { bucket_id: BUCKET };
            let Answered::Counters(counters) = self.ask(shard, Query::GetCounters(query)) else {
                panic!("counters")
            };
            for class in counters.classes {
                let counter = class.counter.unwrap();
                counted.objects += counter.objects;
                counted.bytes += counter.bytes;
                counted.uploads += counter.uploads;
                counted.multipart_parts += counter.multipart_parts;
                counted.multipart_bytes += counter.multipart_bytes;
            }
        }
        let objects = &self.model.objects;
        let expected: BTreeMap<_, _> = objects.iter().map(|(k, o)| (k.clone(), o.size)).collect();
        assert_eq!(listed, expected);
        let signed = |n: u64| i64::try_from(n).unwrap();
        let uploads = self.model.uploads.values();
        let parts: Vec<_> = uploads.flat_map(|upload| upload.parts.values()).collect();
        let expected = state::Counter {
            objects: signed(objects.len() as u64),
            bytes: signed(objects.values().map(|object| object.size).sum()),
            uploads: signed(self.model.uploads.len() as u64),
            multipart_parts: signed(parts.len() as u64),
            multipart_bytes: signed(parts.iter().map(|(size, _)| *size).sum()),
            ..Default::default()
        };
        assert_eq!(counted, expected);
        for (key, object) in objects {
            let query = pb::GetVersion {
                at: Self::at(key),
                with_body: true,
                ..Default::default()
            };
            let Answered::Version(found) = self.ask(Self::shard(key), Query::GetVersion(query))
            else {
                panic!("a version")
            };
            assert_eq!(found.inline, object.inline, "{key}");
            let version = found.version.unwrap();
            if let Some(log) = &object.log {
                assert_eq!(self.tail_of(key, &version, 0), log.tail(), "{key}");
            }
            let (shard, path) = (Self::shard(key), Bytes::from(key.clone()));
            let chunks = self.references(shard, &path, &version.object_id, version.body);
            assert_eq!(chunks, object.chunks, "{key}");
        }
    }

    fn renamed(&mut self, from: &str, to: &str) {
        let command = Wire::RenameEntry(pb::RenameEntry {
            at: Self::at(to),
            source: Bytes::copy_from_slice(from.as_bytes()),
        });
        self.yes(0, command);
    }

    /// The directory and one of its objects have another path for a while; writes, uploads and
    /// deletions under way go with them.
    fn rename(&mut self) {
        let made = |path: &str| {
            Wire::CreateDirectory(pb::CreateDirectory {
                at: Self::at(path),
                owner: 1,
            })
        };
        self.yes(0, made("d"));
        self.yes(0, made("e"));
        self.renamed("d", "e/d");
        let objects: Vec<String> = self.model.objects.keys().cloned().collect();
        let object = (!objects.is_empty()).then(|| &objects[self.below(objects.len())]);
        if let Some(object) = object {
            self.renamed(&format!("e/{object}"), "e/o");
        }
        if self.below(4) == 0 {
            self.crash();
        }
        self.tick(self.entropy.below(2000));
        if let Some(object) = object {
            self.renamed("e/o", &format!("e/{object}"));
        }
        self.renamed("e/d", "d");
    }

    /// Deletes the directories, with whatever is left in them.
    fn remove_directories(&mut self) {
        for path in ["d", "e"] {
            let mut command = pb::DeleteDirectory {
                at: Self::at(path),
                recursive: true,
                from: None,
            };
            loop {
                let reply = self.decide(0, Wire::DeleteDirectory(command.clone()));
                match reply.reply {
                    Some(Reply::DirectoryDeleted(deleted)) if deleted.more => {
                        command.from = deleted.next;
                    }
                    // Nothing was ever put there, or it is gone.
                    _ => break,
                }
            }
        }
    }

    fn step(&mut self) {
        self.time_ms += self.entropy.below(3000);
        if self.tree && self.below(8) == 0 {
            self.rename();
        }
        match self.below(28) {
            0..=4 => self.put_inline(),
            5..=6 => self.put_chunks(),
            7..=8 => self.stage(),
            9 => self.commit_staged(),
            10..=11 => self.delete(),
            12 => self.initiate(),
            13..=14 => self.put_part(),
            15 => self.complete(),
            16 => self.abort(),
            17 => self.pin(),
            18 => self.tick(self.entropy.below(60_000)),
            19..=20 => self.repeat(),
            21 => self.acknowledge(),
            22 => self.crash(),
            23..=25 => self.append(),
            26 => self.fold(),
            _ => self.snapshot(),
        }
    }

    /// Everything is deleted, time goes on: nothing is left, and every chunk was named once.
    fn clean_up(&mut self) {
        for key in self.model.objects.keys().cloned().collect::<Vec<_>>() {
            let command = Wire::DeleteObject(pb::DeleteObject {
                at: Self::at(&key),
                ..Default::default()
            });
            self.yes(Self::shard(&key), command);
            let old = self.model.objects.remove(&key).unwrap();
            self.release(&old.chunks);
        }
        while !self.model.uploads.is_empty() {
            self.abort();
        }
        if self.tree {
            self.remove_directories();
        }
        for (_, write) in std::mem::take(&mut self.model.writes) {
            self.release(&write.chunks);
        }
        for _ in 0..40 {
            self.tick(60_000);
            self.acknowledge();
        }
        assert_eq!(self.model.gone, self.model.released);
        for kind in Kind::POSITIONAL.into_iter().chain(Kind::OWNED).chain([
            Kind::Owner,
            Kind::Deletion,
            Kind::Expiry,
        ]) {
            let bounds = Bounds::prefix(kind_prefix(DATA, kind));
            let mut left = self.kv.scan(
                Space::State,
                &bounds.start,
                bounds.end.as_deref(),
                Direction::Forward,
            );
            assert!(left.next().is_none(), "{kind:?} rows are left");
        }
    }

    /// A replica that was given the same logs, in other batches, none of them at once, and without any mishap.
    fn check_replica(&self) {
        let kv = MemoryKv::new();
        first_state(&kv);
        for (shard, log) in self.logs.iter().enumerate() {
            let machine = open(&kv, shard);
            for entries in log.chunks(7) {
                let last = entries.last().unwrap().index;
                machine.apply(entries.to_vec(), bookkeeping(last)).unwrap();
            }
        }
        let (own, other) = (state_rows(&self.kv), state_rows(&kv));
        assert_eq!(own.len(), other.len());
        for (own, other) in own.iter().zip(&other) {
            assert_eq!(own, other, "replicas differ");
        }
    }
}

/// Each of them may touch ten thousand rows: what is applied together would not fit into memory.
#[test]
fn commands_that_touch_many_rows_are_applied_one_by_one() {
    let kv = MemoryKv::new();
    first_state(&kv);
    let machine = open(&kv, 0);
    let weight = |command| {
        let envelope = pb::Command {
            command: Some(command),
            ..Default::default()
        };
        machine.weigh(&envelope.encode_to_vec().into())
    };
    let delete = |recursive| {
        Wire::DeleteDirectory(pb::DeleteDirectory {
            recursive,
            ..Default::default()
        })
    };
    for heavy in [
        Wire::CompleteUpload(pb::CompleteUpload::default()),
        Wire::AbortUpload(pb::AbortUpload::default()),
        Wire::AckDeletions(pb::AckDeletions::default()),
        delete(true),
    ] {
        let name = format!("{heavy:?}");
        assert_eq!(weight(heavy), MANY_ROWS_BYTES, "{name}");
    }
    assert!(weight(delete(false)) < 100);
}

/// Random commands with repeats, restarts (power cuts between any two writes), snapshots in place,
/// against a model.
#[test]
fn random_commands_repeats_crashes_and_snapshots_agree_with_a_model() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        run(World::new(seed, false));
    }
}

/// The same in a bucket with directories, which are renamed meanwhile.
#[test]
fn random_commands_in_directories_that_are_renamed_agree_with_a_model() {
    for seed in 0..SEEDS / 3 {
        println!("seed {seed}");
        run(World::new(seed, true));
    }
}

fn run(mut world: World) {
    for step in 0..STEPS {
        world.step();
        if step % 10 == 0 {
            world.check();
        }
    }
    world.check();
    world.check_replica();
    world.clean_up();
    world.check_replica();
}
