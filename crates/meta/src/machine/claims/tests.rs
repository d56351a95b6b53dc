//! Parent and child of a split reach another node in every order, by log and by snapshot.

use bytes::Bytes;
use granary_kv::{Direction, KvRead, MemoryKv, Space};
use granary_meta_api::pb;
use granary_meta_api::pb::command::Command as Wire;
use granary_raft::{Committed, StateMachine};
use granary_types::SlabId;
use prost::Message;

use super::*;
use crate::machine::{ShardMachine, create_shard};

const TIME_MS: u64 = 1_800_000_000_000;
const PARENT: (ShardId, SlabId) = (ShardId(1), SlabId(2));
const CHILD: (ShardId, SlabId) = (ShardId(2), SlabId(3));
const DATA: SlabId = SlabId(4);
const BUCKET: u64 = 5;

/// One node: its store and what its shards claim.
#[derive(Default)]
struct Node {
    kv: MemoryKv,
    claims: Claims,
}

impl Node {
    fn open(&self, (shard, home): (ShardId, SlabId)) -> Arc<ShardMachine> {
        ShardMachine::open(Arc::new(self.kv.clone()), shard, home, self.claims.clone()).unwrap()
    }

    fn rows(&self) -> Vec<(Bytes, Bytes)> {
        let rows = self.kv.scan(Space::State, b"", None, Direction::Forward);
        rows.map(Result::unwrap).collect()
    }
}

/// A node with the first state of the parent.
fn born() -> Node {
    let node = Node::default();
    let range = state::Range {
        slab: DATA.0,
        epoch: 1,
        ..Default::default()
    };
    let descriptor = state::ShardDescriptor {
        shard: PARENT.0.0,
        home_slab: PARENT.1.0,
        epoch: 1,
        ranges: vec![range],
        ..Default::default()
    };
    let settings = state::ShardSettings::default();
    create_shard(&node.kv, &descriptor, settings, crate::FEATURE_LEVEL).unwrap();
    node
}

fn apply(machine: &ShardMachine, index: u64, command: Wire) {
    let envelope = pb::Command {
        id: Bytes::copy_from_slice(&u128::from(index).to_be_bytes()),
        deadline_ms: TIME_MS + 60_000,
        command: Some(command),
    };
    let entry = Committed {
        index,
        term: 1,
        time_ms: TIME_MS,
        entropy: 0,
        commands: vec![envelope.encode_to_vec().into()],
    };
    let books = Bytes::copy_from_slice(&index.to_be_bytes());
    let answers = machine.apply(vec![entry], books).unwrap();
    let reply = pb::ProposeReply::decode(answers[0][0].clone()).unwrap();
    let refused = reply
        .reply
        .as_ref()
        .is_none_or(|reply| reply.rejection.is_some());
    assert!(!refused, "{reply:?}");
}

fn configure() -> Wire {
    Wire::ConfigureBucket(pb::ConfigureBucket {
        view: Some(state::BucketView {
            bucket_id: BUCKET,
            generation: 1,
            ..Default::default()
        }),
        segment: None,
    })
}

fn put(key: &str, bytes: &str) -> Wire {
    Wire::PutObject(pb::PutObject {
        at: Some(pb::Position {
            bucket_id: BUCKET,
            key: Bytes::copy_from_slice(key.as_bytes()),
            generation: 1,
        }),
        payload: Some(pb::Payload {
            inline: Bytes::copy_from_slice(bytes.as_bytes()),
            size: bytes.len() as u64,
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn split() -> Wire {
    Wire::SplitRange(pb::SplitRange {
        split_bucket: BUCKET,
        split_key: Bytes::from_static(b"m"),
        child_shard: CHILD.0.0,
        child_home_slab: CHILD.1.0,
        voters: vec![1],
        ..Default::default()
    })
}

/// What every replica of the parent applies, up to the split.
fn until_split(parent: &ShardMachine) {
    apply(parent, 1, configure());
    apply(parent, 2, put("a", "old"));
    apply(parent, 3, put("z", "old"));
}

/// A snapshot: bookkeeping and chunks.
fn taken(machine: &ShardMachine) -> (Bytes, Vec<Bytes>) {
    let mut reader = machine.snapshot().unwrap();
    let books = reader.bookkeeping().unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    (books, chunks)
}

fn install(machine: &ShardMachine, (books, chunks): &(Bytes, Vec<Bytes>)) -> bool {
    if !machine.may_restore(&chunks[0]).unwrap() {
        return false;
    }
    let mut writer = machine.restore().unwrap();
    for chunk in chunks {
        writer.write(chunk.clone()).unwrap();
    }
    writer.finish(books.clone()).unwrap();
    true
}

/// Snapshots of a node where everything has happened, with that of the parent from before the split.
struct Source {
    node: Node,
    early: (Bytes, Vec<Bytes>),
    parent: (Bytes, Vec<Bytes>),
    child: (Bytes, Vec<Bytes>),
}

fn source() -> Source {
    let node = born();
    let parent = node.open(PARENT);
    until_split(&parent);
    let early = taken(&parent);
    apply(&parent, 4, split());
    let child = node.open(CHILD);
    apply(&parent, 5, put("a", "new"));
    apply(&child, 1, put("z", "new"));
    apply(&child, 2, put("y", "new"));
    Source {
        early,
        parent: taken(&parent),
        child: taken(&child),
        node,
    }
}

#[test]
fn a_child_waits_until_its_lagging_parent_has_let_go_of_the_slab() {
    let source = source();
    for parent_by_log in [false, true] {
        let node = born();
        let parent = node.open(PARENT);
        until_split(&parent);
        let child = node.open(CHILD);
        assert!(child.is_blank().unwrap() && !parent.is_blank().unwrap());
        assert!(
            !install(&child, &source.child),
            "the parent would write over it"
        );
        if parent_by_log {
            apply(&parent, 4, split());
            apply(&parent, 5, put("a", "new"));
        } else {
            assert!(install(&parent, &source.parent));
        }
        assert!(install(&child, &source.child));
        assert_eq!(node.rows(), source.node.rows(), "by log: {parent_by_log}");
    }
}

#[test]
fn an_old_snapshot_of_the_parent_does_not_clear_what_the_child_has() {
    let source = source();
    let node = Node::default();
    let (parent, child) = (node.open(PARENT), node.open(CHILD));
    assert!(parent.is_blank().unwrap());
    assert!(install(&child, &source.child), "nobody else is there");
    assert!(
        !install(&parent, &source.early),
        "it brings what the child has"
    );
    assert!(install(&parent, &source.parent));
    assert_eq!(node.rows(), source.node.rows());
}

#[test]
fn of_two_that_are_being_received_one_waits_for_the_other() {
    let source = source();
    let node = Node::default();
    let (parent, child) = (node.open(PARENT), node.open(CHILD));
    assert!(parent.may_restore(&source.early.1[0]).unwrap());
    assert!(!child.may_restore(&source.child.1[0]).unwrap());
    // It never came.
    parent.restore_given_up();
    assert!(install(&child, &source.child));
    assert!(install(&parent, &source.parent));
    assert_eq!(node.rows(), source.node.rows());
}

#[test]
fn a_slab_is_opened_for_its_own_shard_only() {
    let node = born();
    let kv: Arc<dyn Kv> = Arc::new(node.kv.clone());
    let other = ShardMachine::open(kv, CHILD.0, PARENT.1, Claims::default());
    assert!(other.is_err());
}

/// A split that names a shard which was split off before changes nothing.
#[test]
fn a_shard_is_split_off_once() {
    let node = born();
    let parent = node.open(PARENT);
    until_split(&parent);
    apply(&parent, 4, split());
    let before = parent.watch().borrow().clone();
    let again = pb::SplitRange {
        split_key: Bytes::from_static(b"f"),
        ..match split() {
            Wire::SplitRange(split) => split,
            other => panic!("{other:?}"),
        }
    };
    let envelope = pb::Command {
        id: Bytes::copy_from_slice(&[9; 16]),
        deadline_ms: TIME_MS + 60_000,
        command: Some(Wire::SplitRange(again)),
    };
    let entry = Committed {
        index: 5,
        term: 1,
        time_ms: TIME_MS,
        entropy: 0,
        commands: vec![envelope.encode_to_vec().into()],
    };
    let answers = parent
        .apply(vec![entry], Bytes::from_static(b"books"))
        .unwrap();
    let reply = pb::ProposeReply::decode(answers[0][0].clone()).unwrap();
    assert!(reply.reply.unwrap().rejection.is_some());
    assert_eq!(*parent.watch().borrow(), before);
}
