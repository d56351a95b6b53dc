//! A storage node that fails on command or by chance, and one that repeats until it is answered.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_runtime::Runtime;
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use crate::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is lost: nothing happens, the caller hears `Unreachable`.
    FailBefore,
    /// The reply is lost: the node acts, the caller hears `Unreachable`.
    FailAfter,
    /// The reply never comes: the node acts, the caller waits (give it a deadline).
    DropReply,
}

/// How a node misbehaves. Chances are in percent of calls, drawn from the runtime's entropy.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Time that every call takes before it is passed on, at most; drawn evenly.
    pub delay: Duration,
    /// Chance of [`Fault::FailBefore`].
    pub fail_before_percent: u8,
    /// Chance of [`Fault::FailAfter`].
    pub fail_after_percent: u8,
    /// Chance of [`Fault::DropReply`].
    pub drop_reply_percent: u8,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Faults,
    /// Faults of the next calls, last first.
    next: Vec<Fault>,
    down: HashSet<DiskId>,
}

/// Wraps a node and makes it misbehave. Clones share their faults.
#[derive(Clone)]
pub struct FaultyBlobNode {
    node: Arc<dyn BlobNode>,
    runtime: Runtime,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyBlobNode {
    /// A node that behaves until told otherwise.
    pub fn new(runtime: Runtime, node: Arc<dyn BlobNode>) -> Self {
        Self {
            node,
            runtime,
            plan: Arc::default(),
        }
    }

    /// Sets the faults that happen by chance.
    pub fn set(&self, faults: Faults) {
        self.plan.lock().faults = faults;
    }

    /// Makes the next call that has no fault yet suffer this one.
    pub fn fail_next(&self, fault: Fault) {
        self.plan.lock().next.insert(0, fault);
    }

    /// Takes a disk out (`DiskFailed`), or back in.
    pub fn set_down(&self, disk: DiskId, down: bool) {
        let mut plan = self.plan.lock();
        if down {
            plan.down.insert(disk);
        } else {
            plan.down.remove(&disk);
        }
    }

    fn draw(&self) -> (Duration, Option<Fault>) {
        let mut plan = self.plan.lock();
        let entropy = self.runtime.entropy();
        let delay_us = u64::try_from(plan.faults.delay.as_micros()).unwrap_or(u64::MAX);
        let delay = Duration::from_micros(entropy.below(delay_us.saturating_add(1)));
        if let Some(fault) = plan.next.pop() {
            return (delay, Some(fault));
        }
        let mut drawn = entropy.below(100);
        for (percent, fault) in [
            (plan.faults.fail_before_percent, Fault::FailBefore),
            (plan.faults.fail_after_percent, Fault::FailAfter),
            (plan.faults.drop_reply_percent, Fault::DropReply),
        ] {
            if drawn < u64::from(percent) {
                return (delay, Some(fault));
            }
            drawn -= u64::from(percent);
        }
        (delay, None)
    }

    async fn through<T>(
        &self,
        disk: Option<DiskId>,
        call: impl Future<Output = Result<T, BlobError>> + Send,
    ) -> Result<T, BlobError> {
        let (delay, fault) = self.draw();
        if !delay.is_zero() {
            self.runtime.sleep(delay).await;
        }
        if let Some(disk) = disk.filter(|disk| self.plan.lock().down.contains(disk)) {
            return Err(BlobError::DiskFailed(disk));
        }
        match fault {
            None => call.await,
            Some(Fault::FailBefore) => {
                Err(BlobError::Unreachable("injected: request lost".to_owned()))
            }
            Some(Fault::FailAfter) => {
                let _ = call.await;
                Err(BlobError::Unreachable("injected: reply lost".to_owned()))
            }
            Some(Fault::DropReply) => {
                let _ = call.await;
                std::future::pending().await
            }
        }
    }
}

#[async_trait]
impl BlobNode for FaultyBlobNode {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.put(disk, chunk)).await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.through(Some(disk), self.node.get(disk, range)).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.copy(disk, copy)).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.delete(disk, pg, epoch, chunks))
            .await
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.forget(disk, pg, epoch, chunks))
            .await
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.evict(disk, pg, epoch, chunks))
            .await
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        self.through(Some(disk), self.node.groups(disk)).await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        self.through(Some(disk), self.node.list(disk, pg, after, limit))
            .await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        self.through(Some(disk), self.node.verify(disk, pg, after, limit_bytes))
            .await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        self.through(Some(disk), self.node.open_pg(disk, pg, epoch))
            .await
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        self.through(None, self.node.disks()).await
    }
}

/// Repeats every call that was not answered, as a careful caller does.
#[derive(Clone)]
pub struct PersistentBlobNode {
    node: Arc<dyn BlobNode>,
    attempts: usize,
}

impl PersistentBlobNode {
    /// Makes up to `attempts` attempts of every call.
    pub fn new(node: Arc<dyn BlobNode>, attempts: usize) -> Self {
        Self { node, attempts }
    }

    async fn repeat<T, F>(&self, mut call: impl FnMut() -> F + Send) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>> + Send,
    {
        let mut outcome = Err(BlobError::Unreachable("never tried".to_owned()));
        for _ in 0..self.attempts {
            outcome = call().await;
            if !matches!(outcome, Err(BlobError::Unreachable(_))) {
                break;
            }
        }
        outcome
    }
}

#[async_trait]
impl BlobNode for PersistentBlobNode {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        self.repeat(|| self.node.put(disk, chunk.clone())).await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.repeat(|| self.node.get(disk, range)).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        self.repeat(|| self.node.copy(disk, copy)).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.repeat(|| self.node.delete(disk, pg, epoch, chunks.clone()))
            .await
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.repeat(|| self.node.forget(disk, pg, epoch, chunks.clone()))
            .await
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.repeat(|| self.node.evict(disk, pg, epoch, chunks.clone()))
            .await
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        self.repeat(|| self.node.groups(disk)).await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        self.repeat(|| self.node.list(disk, pg, after, limit)).await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        self.repeat(|| self.node.verify(disk, pg, after, limit_bytes))
            .await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        self.repeat(|| self.node.open_pg(disk, pg, epoch)).await
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        self.repeat(|| self.node.disks()).await
    }
}
