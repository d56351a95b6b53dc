//! Atomic batches.

use bytes::Bytes;

use crate::Space;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Space, Bytes, Bytes),
    /// Removes a key.
    Delete(Space, Bytes),
    /// Removes every key with `start <= key < end`. Costly to read across: use it rarely.
    DeleteRange(Space, Bytes, Bytes),
}

/// Changes that become visible, and durable, together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<Op>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put(space, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.ops.push(Op::Delete(space, key.into()));
    }

    /// Removes every key with `start <= key < end`.
    pub fn delete_range(&mut self, space: Space, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        self.ops
            .push(Op::DeleteRange(space, start.into(), end.into()));
    }

    /// The changes in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The changes in order.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// True when the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values together.
    pub fn size_bytes(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                Op::Put(_, key, value) => key.len() + value.len(),
                Op::Delete(_, key) => key.len(),
                Op::DeleteRange(_, start, end) => start.len() + end.len(),
            })
            .sum()
    }
}
