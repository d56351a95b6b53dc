//! A walk through the directories of a bucket in the order of full paths: what stands in a directory
//! comes behind its slash, and a name with other bytes behind it comes where those bytes say.
//!
//! Directories are passed over by seeking, and a seek costs what the way from the nearest common
//! directory costs. Two iterators are open at a time, whatever the depth.

use std::iter::Peekable;

use bytes::Bytes;
use granary_kv::prefix_end;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::{BucketId, SlabId};

use super::{QueryError, ShardView};
use crate::keyspace::directory::DirectoryKey;
use crate::keyspace::head::HeadKey;
use crate::keyspace::upload::UploadKey;
use crate::keyspace::{Entry, KeyField, RowKey, escape, kind_prefix};
use crate::paths::{ROOT, directory_key};
use crate::rows::{Bounds, Rows};

/// A kind of rows that stand in directories.
pub(super) trait InDirectory: RowKey {
    /// The entry's key.
    fn key(&self) -> &Bytes;
}

impl InDirectory for HeadKey {
    fn key(&self) -> &Bytes {
        &self.key
    }
}

impl InDirectory for UploadKey {
    fn key(&self) -> &Bytes {
        &self.key
    }
}

/// What the walk comes to.
pub(super) enum Node<K: RowKey> {
    /// A directory; what is in it comes next.
    Directory(state::Directory),
    /// A row that stands in one.
    Row(K, K::Value),
}

/// An entry with its full path; of a directory with the slash.
pub(super) struct Step<K: RowKey> {
    pub(super) path: Vec<u8>,
    pub(super) node: Node<K>,
}

type RowsOf<'s, K, V> = Peekable<Box<dyn Iterator<Item = Result<(K, V), StateMachineError>> + 's>>;

/// The iterators of the directory that is being walked.
struct Open<'s, K: RowKey> {
    rows: RowsOf<'s, K, K::Value>,
    directories: RowsOf<'s, DirectoryKey, state::Directory>,
}

/// A directory on the way down.
struct Frame {
    id: u64,
    /// Bytes of its path, slash included.
    path_bytes: usize,
}

/// The walk. It begins with the bucket's first entry.
pub(super) struct TreeWalk<'s, K: RowKey> {
    shard: &'s ShardView<'s>,
    slab: SlabId,
    bucket: BucketId,
    /// Paths from here on are not walked.
    end: Option<Vec<u8>>,
    /// The path of the last frame's directory.
    path: Vec<u8>,
    frames: Vec<Frame>,
    /// Where to go on in the last frame while it is not open: a row key's bytes behind the directory.
    from: Vec<u8>,
    open: Option<Open<'s, K>>,
}

impl<'s, K: InDirectory + 's> TreeWalk<'s, K> {
    pub(super) fn new(
        shard: &'s ShardView<'s>,
        slab: SlabId,
        bucket: BucketId,
        end: Option<Vec<u8>>,
    ) -> Self {
        let root = Frame {
            id: ROOT,
            path_bytes: 0,
        };
        Self {
            shard,
            slab,
            bucket,
            end,
            path: Vec::new(),
            frames: vec![root],
            from: Vec::new(),
            open: None,
        }
    }

    /// Goes on with the first path that is not before `path`, which lies ahead. `behind`: bytes of row
    /// keys of that very path, to go on among them.
    pub(super) fn seek(&mut self, path: &[u8], behind: &[u8]) -> Result<(), QueryError> {
        while self.frames.len() > 1 && !path.starts_with(&self.path) {
            self.pop();
        }
        self.open = None;
        loop {
            let rest = path.get(self.path.len()..).unwrap_or_default();
            let slash = rest.iter().position(|byte| *byte == b'/');
            let through = slash.filter(|slash| slash + 1 < rest.len());
            if let Some(slash) = through
                && let Some(name) = rest.get(..=slash)
            {
                let row = directory_key(self.slab, self.bucket, self.top(), name);
                if let Some(directory) = self.shard.rows.get(&row)? {
                    self.push(&directory, name);
                    continue;
                }
            }
            self.from.clear();
            escape(rest, &mut self.from);
            self.from.extend_from_slice(behind);
            return Ok(());
        }
    }

    /// The next entry; `None` behind the last one.
    pub(super) fn next(&mut self) -> Result<Option<Step<K>>, QueryError> {
        loop {
            let Some(found) = self.next_here()? else {
                if self.frames.len() == 1 {
                    return Ok(None);
                }
                self.pop();
                continue;
            };
            let Step { path: name, node } = found;
            let path = [&self.path[..], &name].concat();
            if self.end.as_ref().is_some_and(|end| path >= *end) {
                return Ok(None);
            }
            if let Node::Directory(directory) = &node {
                self.push(directory, &name);
            }
            return Ok(Some(Step { path, node }));
        }
    }

    fn top(&self) -> u64 {
        self.frames.last().map_or(ROOT, |frame| frame.id)
    }

    fn push(&mut self, directory: &state::Directory, name: &[u8]) {
        self.path.extend_from_slice(name);
        self.frames.push(Frame {
            id: directory.id,
            path_bytes: self.path.len(),
        });
        self.from.clear();
        self.open = None;
    }

    /// Leaves a directory; its parent goes on behind it.
    fn pop(&mut self) {
        self.frames.pop();
        let above = self.frames.last().map_or(0, |frame| frame.path_bytes);
        let name = self.path.get(above..).unwrap_or_default();
        let next = prefix_end(name).unwrap_or_default();
        self.from.clear();
        escape(&next, &mut self.from);
        self.path.truncate(above);
        self.open = None;
    }

    /// The next entry of the last frame, with its name for a path.
    fn next_here(&mut self) -> Result<Option<Step<K>>, QueryError> {
        let open = match &mut self.open {
            Some(open) => open,
            closed => {
                let id = self.frames.last().map_or(ROOT, |frame| frame.id);
                let at = (self.slab, self.bucket, id);
                closed.insert(Open {
                    rows: rows_from(self.shard, at, &self.from),
                    directories: rows_from(self.shard, at, &self.from),
                })
            }
        };
        // An error is taken first, so that it is told.
        let row_first = match (open.rows.peek(), open.directories.peek()) {
            (None, None) => return Ok(None),
            (Some(Ok((row, _))), Some(Ok((directory, _)))) => *row.key() < directory.key,
            (Some(_), None) | (Some(Err(_)), Some(_)) => true,
            (None, Some(_)) | (Some(Ok(_)), Some(Err(_))) => false,
        };
        if row_first {
            let Some((row, value)) = open.rows.next().transpose()? else {
                return Ok(None);
            };
            return Ok(Some(Step {
                path: name_of(row.key()),
                node: Node::Row(row, value),
            }));
        }
        let Some((row, directory)) = open.directories.next().transpose()? else {
            return Ok(None);
        };
        Ok(Some(Step {
            path: name_of(&row.key),
            node: Node::Directory(directory),
        }))
    }
}

fn name_of(key: &Bytes) -> Vec<u8> {
    Entry::read(key).map_or_else(Vec::new, |entry| entry.name.to_vec())
}

/// The rows of a kind in a directory, from a place in it on.
fn rows_from<'s, K: RowKey + 's>(
    shard: &'s ShardView<'s>,
    at: (SlabId, BucketId, u64),
    from: &[u8],
) -> RowsOf<'s, K, K::Value> {
    let (slab, bucket, directory) = at;
    let mut prefix = kind_prefix(slab, K::KIND);
    bucket.write(&mut prefix);
    let name = b"";
    escape(&Entry { directory, name }.key(), &mut prefix);
    let start = [&prefix[..], from].concat();
    let bounds = Bounds::prefix(prefix).from(start);
    let rows: Box<dyn Iterator<Item = _> + 's> = Box::new(shard.rows.rows::<K>(&bounds));
    rows.peekable()
}
